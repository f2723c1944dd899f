#include "ctl/session.h"

#include <unistd.h>

#include <iostream>

#include "ctl/format.h"

namespace mhv::ctl {

Progress::Progress(bool wanted) : wanted_(wanted && ::isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  if (shown_) std::cerr << "\r\033[K" << std::flush;
}

void Progress::operator()(const protocol::Progress& at) {
  if (!wanted_) return;
  std::cerr << "\r\033[K" << progress_text(at) << std::flush;
  shown_ = true;
}

Session::Session(const Globals& globals)
    : json_(globals.json), client_(globals.run_dir.empty() ? globals.socket : globals.run_dir + "/mhvd.sock") {}

protocol::Reply Session::call(protocol::Request request) {
  Progress progress(!json_);
  return client_.call(std::move(request), std::ref(progress));
}

int Session::print(const std::string& text) {
  std::cout << text << std::flush;
  return 0;
}

int Session::done(const std::string& guest, const std::string& what) { return print(json_ ? "{}\n" : guest + ": " + what + "\n"); }

}  // namespace mhv::ctl
