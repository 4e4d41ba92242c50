/** Ends a child process when this one has ended, even by SIGKILL, which no process can handle. */
import { type ChildProcess, spawn } from 'node:child_process';
import type { Socket } from 'node:net';

/**
 * Starts a shell that reads from a pipe whose other end only this process holds. When this process ends, the kernel
 * closes the pipe and the shell sends `signal` to the child. The shell ends with the child.
 */
export function endWithUs(child: ChildProcess, signal: 'TERM' | 'INT'): void {
  const guard = spawn('sh', ['-c', `read -r _; kill -${signal} ${child.pid}`], {
    stdio: ['pipe', 'ignore', 'ignore'],
    // In its own process group: a terminal's Ctrl-C would end it before the process that it guards.
    detached: true,
  });
  guard.on('error', () => {}); // without a shell there is no guard, and nothing else depends on it
  guard.unref();
  (guard.stdin as Socket).unref();
  child.once('exit', () => guard.kill('SIGKILL'));
}
