#pragma once

// Text for HTML pages: names of files and classes are not to be trusted. Needs no LibTorch.

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace smooseg::app::html {

/// A text as content of an element or as a quoted attribute. What is no UTF-8 becomes the replacement character.
std::string escaped(std::string_view text);

/// JSON as the content of a `<script type="application/json">`, which no text in it can end.
std::string script_json(const nlohmann::json& json);

/// "data:TYPE;base64,..."
std::string data_uri(const std::string& type, std::string_view bytes);

/// A share in percent with one decimal, such as "65.7"; "–" for NaN.
std::string percent(double share);

/// A number with a few significant digits, such as "0.0123".
std::string number(double value);

}  // namespace smooseg::app::html
