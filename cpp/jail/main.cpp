// usage: mhv-jail --package FOLDER --program NAME --uid N --memory-mib M --cpu-percent P --pids K --descriptors D [-- ARGUMENT...]
#include <fmt/format.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include "base/error.h"
#include "jail/jail.h"

int main(int argc, char** argv) {
  try {
    spdlog::set_default_logger(spdlog::stderr_logger_st("mhv-jail"));
    std::string help;
    const mhv::jail::Options options = mhv::jail::parse_options(argc, argv, help);
    if (!help.empty()) {
      fmt::print("{}", help);
      return 0;
    }
    return mhv::jail::run(options);
  } catch (const mhv::Error& error) {
    spdlog::error("{}{}{}", error.what(), error.hint().empty() ? "" : ": ", error.hint());
  } catch (const std::exception& error) {
    spdlog::error("{}", error.what());
  }
  return mhv::jail::kNotRun;
}
