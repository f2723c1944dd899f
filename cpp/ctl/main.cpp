#include "ctl/command.h"

int main(int argc, char** argv) { return mhv::ctl::run(argc, argv); }
