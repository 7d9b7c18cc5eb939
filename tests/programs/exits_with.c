/* exits_with code [seconds]: exits with this code, after so many seconds. */
#include "program.h"

int main(int argc, char **argv) {
    give_up();
    pause_for(number(argc, argv, 2, 0));
    return (int)number(argc, argv, 1, 0);
}
