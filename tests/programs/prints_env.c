/* prints_env: its environment, byte for byte, each string ended by a NUL. */
#include "program.h"

int main(void) {
    give_up();
    for (char **string = environ; *string != NULL; string++)
        fwrite(*string, 1, strlen(*string) + 1, stdout);
    return 0;
}
