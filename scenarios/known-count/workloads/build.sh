#!/bin/sh
# A small C project, built twice (the second time nothing is to be done), changed, cleaned.
cp /opt/scenario/workloads/make/* .
make CC=tcc && ./program && make CC=tcc
echo 'int two(void) { return 22; }' >two.c
make CC=tcc -j2 && ./program
echo 'int two(void) {' >two.c
make CC=tcc
make clean
