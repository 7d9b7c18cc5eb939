/*
 * prints_ids: who and where it is, as JSON: pid, ppid, pgid, sid, uids and gids
 * (real, effective, saved), groups, umask, nice, no_new_privs, pdeathsig,
 * affinity (list of CPUs), cwd, has_tty.
 */
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "program.h"

int main(void) {
    give_up();
    uid_t uids[3];
    gid_t gids[3], groups[4096];
    getresuid(&uids[0], &uids[1], &uids[2]);
    getresgid(&gids[0], &gids[1], &gids[2]);
    int n_groups = getgroups(4096, groups);
    mode_t mask = umask(0);
    int pdeathsig = 0;
    prctl(PR_GET_PDEATHSIG, &pdeathsig);

    printf("{\"pid\": %d, \"ppid\": %d, \"pgid\": %d, \"sid\": %d, ", getpid(), getppid(), getpgid(0), getsid(0));
    printf("\"uids\": [%u, %u, %u], \"gids\": [%u, %u, %u], \"groups\": [", uids[0], uids[1], uids[2], gids[0], gids[1],
           gids[2]);
    for (int i = 0; i < n_groups; i++)
        printf("%s%u", i ? ", " : "", groups[i]);
    printf("], \"umask\": %u, \"nice\": %d, ", mask, getpriority(PRIO_PROCESS, 0));
    printf("\"no_new_privs\": %d, \"pdeathsig\": %d, \"affinity\": [", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0),
           pdeathsig);
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    sched_getaffinity(0, sizeof cpus, &cpus);
    const char *comma = "";
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &cpus)) {
            printf("%s%d", comma, cpu);
            comma = ", ";
        }
    char cwd[4096];
    int tty = open("/dev/tty", O_RDWR | O_CLOEXEC);
    printf("], \"cwd\": \"%s\", \"has_tty\": %s}\n", getcwd(cwd, sizeof cwd) ? cwd : "", tty >= 0 ? "true" : "false");
    return 0;
}
