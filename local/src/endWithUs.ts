/** Ends a child process when this one is gone, however it went: SIGKILL leaves nobody the time to tidy up. */
import { type ChildProcess, spawn } from 'node:child_process';
import type { Socket } from 'node:net';

/**
 * Lets a shell read from a pipe whose other end this process alone holds. When this process dies the kernel closes the
 * pipe, and the shell sends `signal` to the child. The shell ends with the child.
 */
export function endWithUs(child: ChildProcess, signal: 'TERM' | 'INT'): void {
  const guard = spawn('sh', ['-c', `read -r _; kill -${signal} ${child.pid}`], {
    stdio: ['pipe', 'ignore', 'ignore'],
    // Out of reach of a terminal's Ctrl-C, which would end it before the process it guards.
    detached: true,
  });
  guard.on('error', () => {}); // no shell, no guard: nothing else depends on it
  guard.unref();
  (guard.stdin as Socket).unref();
  child.once('exit', () => guard.kill('SIGKILL'));
}
