#pragma once

/// The version of smooseg, and its only source: the build reads it from here.
#define SMOOSEG_VERSION_MAJOR 0
#define SMOOSEG_VERSION_MINOR 1
#define SMOOSEG_VERSION_PATCH 0
#define SMOOSEG_VERSION "0.1.0"
