//! The hook `crash`: prepared ahead, since a program that crashes can allocate nothing any more.

use super::hooks::Hook;
use super::program::pointers;
use std::ffi::CString;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// The signals that a defect of the server brings.
const SIGNALS: [libc::c_int; 3] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT];

/// The call, ready for `execve`, and what was to be done at the signals before.
struct Prepared {
    _strings: [Vec<CString>; 2],
    words: Vec<*mut libc::c_char>,
    environment: Vec<*mut libc::c_char>,
    former: [libc::sigaction; SIGNALS.len()],
}

/// Never freed: a handler may be looking at it.
static PREPARED: AtomicPtr<Prepared> = AtomicPtr::new(std::ptr::null_mut());
static INSTALLED: Once = Once::new();
/// A panic is often followed by an abort: one crash, one hook.
static HAS_RUN: AtomicBool = AtomicBool::new(false);

fn prepared() -> Option<&'static Prepared> {
    // SAFETY: null, or a box that was leaked.
    unsafe { PREPARED.load(Ordering::Acquire).as_ref() }
}

/// From here on a crash runs the hook, without waiting for it, and then does what it would have done.
/// Called again when the hook's words have changed.
pub fn prepare(hook: &Hook) {
    let words = hook.program().words(hook.words("crash"));
    let environment = hook.program().environment().to_vec();
    let former = match prepared() {
        Some(prepared) => prepared.former,
        // SAFETY: plain data on the stack, filled by the call.
        None => SIGNALS.map(|signal| unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &mut action);
            action
        }),
    };
    let prepared = Prepared {
        words: pointers(&words),
        environment: pointers(&environment),
        _strings: [words, environment],
        former,
    };
    PREPARED.store(Box::leak(Box::new(prepared)), Ordering::Release);
    INSTALLED.call_once(install);
}

fn install() {
    for signal in SIGNALS {
        // SAFETY: plain data on the stack; the handler does only what is allowed in one.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = crashed as *const () as usize;
            // A stack that has overflowed is no place for a handler.
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
    let former = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        former(info);
        run();
    }));
}

extern "C" fn crashed(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    run();
    let former = prepared().and_then(|prepared| {
        SIGNALS.iter().position(|one| *one == signal).map(|at| &prepared.former[at])
    });
    // SAFETY: calls that are allowed in a handler, with live or no memory. The kernel hands the
    // information over.
    unsafe {
        let sent = (*info).si_code <= 0;
        match former {
            // The instruction that failed fails again, and meets who was there before us.
            Some(former) if !sent => {
                libc::sigaction(signal, former, std::ptr::null_mut());
            }
            _ => {
                libc::signal(signal, libc::SIG_DFL);
                libc::raise(signal);
            }
        }
    }
}

/// Forks and executes, with nothing but system calls: whoever crashed may hold any lock.
fn run() {
    let Some(prepared) = prepared() else { return };
    if HAS_RUN.swap(true, Ordering::SeqCst) {
        return;
    }
    // SAFETY: the child has its own copy of all memory and makes system calls alone, with lists and
    // strings that live for ever, before it becomes another program or ends. The C library's fork
    // would take locks.
    unsafe {
        if libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) != 0 {
            return;
        }
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut signals);
        libc::sigprocmask(libc::SIG_SETMASK, &signals, std::ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY);
        if null > 0 {
            libc::dup2(null, 0);
            libc::close(null);
        }
        libc::execve(
            prepared.words[0],
            prepared.words.as_ptr().cast(),
            prepared.environment.as_ptr().cast(),
        );
        libc::_exit(127);
    }
}
