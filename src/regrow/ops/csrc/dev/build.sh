#!/bin/sh
# Development only: build.sh OUT [flags...]   e.g. build.sh /tmp/driver; build.sh /tmp/asan -O1 -fsanitize=address,undefined
# ISA=v4 | v3 | base, with the flags of MARCH; CXX=aarch64-linux-gnu-g++ ISA=base MARCH= build.sh /tmp/arm -static
cd "$(dirname "$0")" && out=$1 && shift
CXX=${CXX:-g++} ISA=${ISA:-v3} MARCH=${MARCH--march=x86-64-v3}
mkdir -p "$out.o" && (
$CXX -std=c++20 -O2 -Wall -Wextra "$@" -c ../kernels/plan.cpp -o "$out.o/plan.o" &
$CXX -std=c++20 -O2 -Wall -Wextra "$@" -c ../kernels/pixel_plan.cpp -o "$out.o/pixel_plan.o" &
$CXX -std=c++20 -O3 $MARCH -DREGROW_ISA=$ISA -Wall -Wextra "$@" -c ../kernels/kernels.cpp -o "$out.o/kernels.o" & wait )
exec $CXX -std=c++20 -O2 -fopenmp -DDRIVER_ISA=isa_$ISA "$@" driver.cpp "$out.o"/*.o -o "$out"
