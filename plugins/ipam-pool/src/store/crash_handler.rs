use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Writes a message if a signal ends the process.
///
/// LMDB reads its file through a memory map without checks: a file that was truncated or overwritten can cause SIGBUS
/// or SIGSEGV, or make LMDB abort. Nothing was changed then, since a change becomes visible by its last write. The
/// handler writes a prepared text, which for a CNI call is the error document, and ends the process.
///
/// A crash is about a damaged store only if it happens while the store is read or changed ([`CrashHandler::inside`])
/// and was caused by this process. Any other crash is a bug, or a signal that another process sent, and no reason to
/// remove a file.
#[derive(Debug)]
pub struct CrashHandler;

/// Exists while LMDB or its memory map is in use.
#[derive(Debug)]
pub(crate) struct StoreAccess(());

type Prepare = Box<dyn Fn(&Path) -> Vec<u8> + Send + Sync>;

static PREPARE: OnceLock<Prepare> = OnceLock::new();
static DAMAGED: Text = Text::new();
static FAILED: Text = Text::new();
static INSIDE: AtomicUsize = AtomicUsize::new(0);
static OUTPUT: AtomicI32 = AtomicI32::new(1);

/// A text that a signal handler can read at any time.
struct Text {
    start: AtomicPtr<u8>,
    len: AtomicUsize,
}

impl Text {
    const fn new() -> Self {
        Self { start: AtomicPtr::new(std::ptr::null_mut()), len: AtomicUsize::new(0) }
    }

    fn set(&self, text: Vec<u8>) {
        let text: &'static [u8] = Vec::leak(text);
        // A signal between the two stores must not see a length that is too large.
        self.len.store(0, Ordering::SeqCst);
        self.start.store(text.as_ptr().cast_mut(), Ordering::SeqCst);
        self.len.store(text.len(), Ordering::SeqCst);
    }
}

impl CrashHandler {
    /// From now on, a crash caused by a damaged store writes `damaged` of its path to the descriptor `output`, any
    /// other crash writes `failed`, and the process ends with status 1. Only the first call in a process has an
    /// effect.
    pub fn install(output: i32, damaged: impl Fn(&Path) -> Vec<u8> + Send + Sync + 'static, failed: Vec<u8>) {
        if PREPARE.set(Box::new(damaged)).is_err() {
            return;
        }
        FAILED.set(failed);
        OUTPUT.store(output, Ordering::Relaxed);
        let flags = SaFlags::SA_RESETHAND | SaFlags::SA_SIGINFO;
        let action = SigAction::new(SigHandler::SigAction(crashed), flags, SigSet::empty());
        for signal in [Signal::SIGBUS, Signal::SIGSEGV, Signal::SIGABRT] {
            #[expect(unsafe_code, reason = "a signal handler may only do what is safe at any moment")]
            // SAFETY: the handler only loads atomics, reads what the kernel gave it, and calls getpid(2), write(2) and
            // _exit(2), which are async-signal-safe (signal-safety(7)).
            let installed = unsafe { sigaction(signal, &action) };
            // Without a handler the process ends without a message, as by default.
            let _ = installed;
        }
    }

    /// Sets the store's file that a crash is about.
    pub(crate) fn set_current_file(path: &Path) {
        if let Some(prepare) = PREPARE.get() {
            DAMAGED.set(prepare(path));
        }
    }

    /// A crash is about the store until the result is dropped.
    pub(crate) fn inside() -> StoreAccess {
        INSIDE.fetch_add(1, Ordering::SeqCst);
        StoreAccess(())
    }
}

impl Drop for StoreAccess {
    fn drop(&mut self) {
        INSIDE.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Whether this process caused the signal: by an access to memory, or by abort(3).
fn is_caused_by_process(signal: i32, code: i32, sender: i32, own: i32) -> bool {
    match signal {
        libc::SIGABRT => code == libc::SI_TKILL && sender == own,
        _ => code > 0,
    }
}

extern "C" fn crashed(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    #[expect(unsafe_code, reason = "what is left to do after SIGBUS has no safe form")]
    // SAFETY: the kernel hands over a whole siginfo_t (SA_SIGINFO); a text describes a leaked, never changed allocation,
    // or its length is 0; getpid, write and _exit are async-signal-safe.
    unsafe {
        let own = is_caused_by_process(signal, (*info).si_code, (*info).si_pid(), libc::getpid());
        let text = if own && INSIDE.load(Ordering::SeqCst) > 0 { &DAMAGED } else { &FAILED };
        let (len, start) = (text.len.load(Ordering::SeqCst), text.start.load(Ordering::SeqCst));
        libc::write(OUTPUT.load(Ordering::Relaxed), start.cast_const().cast(), len);
        libc::_exit(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_was_sent_says_nothing_about_the_store() {
        // sigaction(2): signals from the kernel have a positive code.
        for (signal, code, sender, own) in [
            (libc::SIGSEGV, 1, 0, true),
            (libc::SIGBUS, 2, 0, true),
            (libc::SIGBUS, libc::SI_USER, 7, false),
            (libc::SIGSEGV, libc::SI_TKILL, 9, false),
            (libc::SIGABRT, libc::SI_TKILL, 9, true),
            (libc::SIGABRT, libc::SI_TKILL, 7, false),
            (libc::SIGABRT, libc::SI_USER, 7, false),
        ] {
            assert_eq!(is_caused_by_process(signal, code, sender, 9), own, "{signal} {code} {sender}");
        }
    }
}
