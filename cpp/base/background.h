// A thread for work that is to take no processor from others who wait for one, such as a guest's.
#pragma once

#include <exception>
#include <functional>
#include <semaphore>
#include <thread>

namespace mhv {

// One caller at a time.
class Background {
 public:
  Background();
  ~Background();
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

  // Returns when `work` is done, at a low priority; throws what it throws.
  void run(std::function<void()> work);

 private:
  void serve();

  std::function<void()> work_;  // empty: the end
  std::exception_ptr error_;
  std::binary_semaphore wanted_{0};
  std::binary_semaphore done_{0};
  std::thread thread_;
};

}  // namespace mhv
