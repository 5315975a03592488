#!/bin/sh
# Development only: build.sh OUT [flags...]   e.g. build.sh /tmp/driver; build.sh /tmp/asan -O1 -fsanitize=address,undefined
cd "$(dirname "$0")" && out=$1 && shift
mkdir -p "$out.o" && (
g++ -std=c++20 -O2 -fopenmp -Wall -Wextra "$@" -c ../kernels/plan.cpp -o "$out.o/plan.o" &
g++ -std=c++20 -O3 ${MARCH:--march=x86-64-v3} -DREGROW_ISA=v3 -Wall -Wextra "$@" -c ../kernels/kernels.cpp -o "$out.o/kernels.o" & wait )
exec g++ -std=c++20 -O2 -fopenmp "$@" driver.cpp "$out.o/plan.o" "$out.o/kernels.o" -o "$out"
