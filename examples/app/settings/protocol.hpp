#pragma once

// How clusters are matched with classes and scores averaged, for `evaluate`.

#include <CLI/App.hpp>
#include <string>

#include "settings/options.hpp"
#include "smooseg/metrics/scores.hpp"

namespace smooseg::app {

inline const Choices<metrics::Matching> kMatchings{{"hungarian", metrics::Matching::kHungarian},
                                                   {"majority", metrics::Matching::kMajority}};
inline const Choices<metrics::AbsentClasses> kAbsentClasses{
    {"skip", metrics::AbsentClasses::kSkip},
    {"skip-unlabelled", metrics::AbsentClasses::kSkipUnlabelled},
    {"zero", metrics::AbsentClasses::kZero}};

/// The defaults are the library's, which are those of the published evaluation.
struct ProtocolSettings {
  std::string matching = name_of(metrics::Protocol().matching, kMatchings);
  std::string absent_classes = name_of(metrics::Protocol().absent, kAbsentClasses);
};

/// Adds an option for each setting.
inline void add_options(CLI::App& command, ProtocolSettings& settings) {
  command
      .add_option("--matching", settings.matching,
                  "of clusters with classes: hungarian, one to one; or majority, each cluster its most frequent class")
      ->check(CLI::IsMember(kMatchings));
  command
      .add_option("--absent-classes", settings.absent_classes,
                  "in the mean IoU: skip leaves out classes that are neither labelled nor predicted, as the published "
                  "evaluation does; skip-unlabelled those that are not labelled; zero none, they count as 0")
      ->check(CLI::IsMember(kAbsentClasses));
}

inline metrics::Protocol protocol_of(const ProtocolSettings& settings) {
  return {kMatchings.at(settings.matching), kAbsentClasses.at(settings.absent_classes)};
}

}  // namespace smooseg::app
