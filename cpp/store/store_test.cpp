#include "store/store.h"

#include <gtest/gtest.h>

#include "store/store_testing.h"

namespace mhv::store {
namespace {

TEST(Store, GivesBackWhatWasPut) {
  TempFolder temp;
  Model model;
  {
    auto store = Store::open(temp.path());
    model.commit(*store, 1, 0, {{0, 10}, {1, 11}, {5, 12}, {6, 0}}, 100'000);
    model.commit(*store, 2, 1, {{1, 21}, {5, 0}, {9, 12}}, 5);
    model.check(*store);
  }
  auto store = Store::open(temp.path());
  model.check(*store);
}

}  // namespace
}  // namespace mhv::store
