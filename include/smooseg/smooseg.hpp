#pragma once

// All of smooseg. A program that only needs the losses includes smooseg/loss.hpp.

#include "smooseg/backbone/registry.hpp"
#include "smooseg/backbone/resnet.hpp"
#include "smooseg/backbone/texture.hpp"
#include "smooseg/backbone/vision_transformer.hpp"
#include "smooseg/baselines/kmeans.hpp"
#include "smooseg/crf/dense_crf.hpp"
#include "smooseg/io/load.hpp"
#include "smooseg/io/names.hpp"
#include "smooseg/loss.hpp"
#include "smooseg/memory.hpp"
#include "smooseg/metrics/confusion.hpp"
#include "smooseg/metrics/hungarian.hpp"
#include "smooseg/metrics/scores.hpp"
#include "smooseg/projector.hpp"
#include "smooseg/segmenter.hpp"
#include "smooseg/version.hpp"
