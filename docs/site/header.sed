# Doxygen's filter for headers (sed -E). Names of parameters that are not used stand in comments:
s@/\*([a-z_]+)\*/@\1@g
# The full stop of "Eq. 7" does not end a brief description:
s@(Eqs?|Fig)\. ([0-9A])@\1.\\ \2@g
