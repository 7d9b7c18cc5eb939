/* prints_limits: its resource limits as JSON: {"cpu": [soft, hard], ...}; -1 means unlimited. */
#include <sys/resource.h>

#include "program.h"

static const struct {
    const char *name;
    int resource;
} limits[] = {{"cpu", RLIMIT_CPU},           {"address_space", RLIMIT_AS}, {"data", RLIMIT_DATA},
              {"file_size", RLIMIT_FSIZE},   {"core", RLIMIT_CORE},        {"stack", RLIMIT_STACK},
              {"open_files", RLIMIT_NOFILE}, {"processes", RLIMIT_NPROC},  {"locked_memory", RLIMIT_MEMLOCK}};

int main(void) {
    give_up();
    printf("{");
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        struct rlimit limit;
        if (getrlimit((__rlimit_resource_t)limits[i].resource, &limit) < 0)
            return 111;
        printf("%s\"%s\": [%lld, %lld]", i ? ", " : "", limits[i].name, (long long)limit.rlim_cur,
               (long long)limit.rlim_max);
    }
    printf("}\n");
    return 0;
}
