//! Low priorities for the calling thread.
//!
//! Owns the two system calls that no safe crate offers (rustix has neither
//! `sched_setscheduler` nor `ioprio_set`), and with them all `unsafe` code of
//! the crate. Knows nothing of what the thread does.
#![expect(
    unsafe_code,
    reason = "two system calls without pointers to anything but a local struct"
)]

use std::io;

/// `ioprio_set`'s "a process or thread", of `linux/ioprio.h`.
const WHO_PROCESS: libc::c_int = 1;
/// `IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT`, of `linux/ioprio.h`: the disk
/// when nobody else wants it.
const IDLE_IO: libc::c_int = 3 << 13;

/// Puts the calling thread, and the threads that it will start, at `SCHED_IDLE`
/// and idle I/O priority: it runs when no other thread wants a core, and reads
/// and writes when nobody else wants the disk.
///
/// It can't be taken back without privileges, so a thread of a pool must not
/// call it.
///
/// # Errors
/// What the system says; a container may forbid it. The thread then goes on as
/// it was.
pub fn idle() -> io::Result<()> {
    // SAFETY: an all-zero `sched_param` is a valid one, and the priority that
    // SCHED_IDLE demands (sched(7)).
    let param: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: 0 is the calling thread; `param` outlives the call, which only
    // reads it.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const param) }.into())?;
    // SAFETY: `ioprio_set` takes three integers and touches no memory of ours.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, IDLE_IO) })
}

/// Puts the calling thread, and the threads that it will start, at nice 15: where
/// all cores are wanted it gets some hundredths of one, and the disk after others.
///
/// For a thread that shares locks with the camera path: one that is [`idle`]
/// could hold a lock for as long as others want the cores.
///
/// # Errors
/// What the system says. The thread then goes on as it was.
pub fn low() -> io::Result<()> {
    // On Linux a thread has a priority of its own, and 0 is the calling one.
    rustix::process::setpriority_process(None, 15).map_err(io::Error::from)
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_alone_becomes_low() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        let low = std::thread::scope(|scope| {
            let thread = scope.spawn(|| low().map(|()| nice()));
            thread.join().unwrap()
        });
        assert_eq!(low.unwrap(), 15);
        assert_eq!(nice(), before);
    }

    #[test]
    fn the_thread_alone_becomes_idle() {
        let policy = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            // Field 41, counted from 1; the name in brackets may hold spaces.
            let after_name = stat.rsplit(')').next().unwrap().to_owned();
            after_name
                .split_whitespace()
                .nth(41 - 3)
                .unwrap()
                .to_owned()
        };
        let before = policy();
        let idle = std::thread::scope(|scope| {
            let thread = scope.spawn(|| idle().map(|()| policy()));
            thread.join().unwrap()
        });
        assert_eq!(idle.unwrap(), libc::SCHED_IDLE.to_string());
        assert_eq!(policy(), before);
    }
}
