/*
 * /livenessprobe: executes the program with SIGTERM, SIGINT and SIGHUP blocked.
 *
 * The kernel drops signals for a PID 1 that has no handler, and Python needs 20 ms until the first handler is set, 1.5 s where
 * CPU is scarce: a pod that is deleted in that time would wait for SIGKILL.  Blocked signals stay pending until
 * livenessprobe/process/signals.py unblocks them.
 */
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#ifndef PROGRAM
#define PROGRAM "/app/bin/livenessprobe" /* written by assemble.py */
#endif

int main(int argc, char **argv)
{
    sigset_t early;
    sigemptyset(&early);
    sigaddset(&early, SIGTERM);
    sigaddset(&early, SIGINT);
    sigaddset(&early, SIGHUP);
    sigprocmask(SIG_BLOCK, &early, NULL);
    (void)argc;
    execv(PROGRAM, argv);
    perror(PROGRAM);
    return 127;
}
