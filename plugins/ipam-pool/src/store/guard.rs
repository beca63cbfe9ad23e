use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Says what happened if a damaged store ends the process.
///
/// LMDB reads its file through a memory map and trusts it: a file that was cut or overwritten can make
/// the kernel send SIGBUS or SIGSEGV, or LMDB abort. Nothing has been changed then, since changes
/// become visible by their last write. What is missing is a word about it: this writes a prepared text,
/// which for a CNI call is the error document, and ends the process.
#[derive(Debug)]
pub struct Guard;

type Prepare = Box<dyn Fn(&Path) -> Vec<u8> + Send + Sync>;

static PREPARE: OnceLock<Prepare> = OnceLock::new();
static TEXT: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
static LEN: AtomicUsize = AtomicUsize::new(0);
static OUTPUT: AtomicI32 = AtomicI32::new(1);

impl Guard {
    /// From now on, a crash over a file writes what `prepare` says about it to the descriptor
    /// `output`, and the process ends with status 1. Only the first call in a process counts.
    pub fn install(output: i32, prepare: impl Fn(&Path) -> Vec<u8> + Send + Sync + 'static) {
        if PREPARE.set(Box::new(prepare)).is_err() {
            return;
        }
        OUTPUT.store(output, Ordering::Relaxed);
        let action = SigAction::new(SigHandler::Handler(crashed), SaFlags::SA_RESETHAND, SigSet::empty());
        for signal in [Signal::SIGBUS, Signal::SIGSEGV, Signal::SIGABRT] {
            #[expect(unsafe_code, reason = "a signal handler may only do what is safe at any moment")]
            // SAFETY: the handler only loads atomics and calls write(2) and _exit(2), which are
            // async-signal-safe (signal-safety(7)).
            let installed = unsafe { sigaction(signal, &action) };
            // Without a handler the process ends without a word, which is what it did before.
            let _ = installed;
        }
    }

    /// The file that is about to be looked at.
    pub(crate) fn touching(path: &Path) {
        let Some(prepare) = PREPARE.get() else { return };
        let text: &'static [u8] = Vec::leak(prepare(path));
        // A signal that comes between the two writes must not see a length that is too large.
        LEN.store(0, Ordering::SeqCst);
        TEXT.store(text.as_ptr().cast_mut(), Ordering::SeqCst);
        LEN.store(text.len(), Ordering::SeqCst);
    }
}

extern "C" fn crashed(_signal: i32) {
    let (len, text) = (LEN.load(Ordering::SeqCst), TEXT.load(Ordering::SeqCst));
    #[expect(unsafe_code, reason = "what is left to do after SIGBUS has no safe form")]
    // SAFETY: text and len describe a leaked, never changed allocation, or len is 0; write and _exit are
    // async-signal-safe.
    unsafe {
        nix::libc::write(OUTPUT.load(Ordering::Relaxed), text.cast_const().cast(), len);
        nix::libc::_exit(1);
    }
}
