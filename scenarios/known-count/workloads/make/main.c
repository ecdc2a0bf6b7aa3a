#include <stdio.h>
#include "all.h"
int main(void) { printf("%d\n", one() + two() + three()); return 0; }
