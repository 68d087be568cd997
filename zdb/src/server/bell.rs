//! How another thread wakes the one that waits: an eventfd.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

#[derive(Clone)]
pub struct Bell(Arc<OwnedFd>);

impl Bell {
    pub fn new() -> Result<Self, String> {
        // SAFETY: the descriptor is checked before it is owned.
        let descriptor = unsafe {
            let descriptor = libc::eventfd(0, libc::EFD_CLOEXEC);
            if descriptor < 0 {
                return Err(format!("cannot make an eventfd: {}", io::Error::last_os_error()));
            }
            OwnedFd::from_raw_fd(descriptor)
        };
        Ok(Self(Arc::new(descriptor)))
    }

    /// Whoever waits for the descriptor wakes up, or does not even fall asleep.
    pub fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight live bytes, and a descriptor that is open as long as `self`.
        unsafe { libc::write(self.descriptor(), one.as_ptr().cast(), one.len()) };
    }

    /// Takes what was rung so far; waits where nothing was.
    pub fn hear(&self) {
        let mut count = [0; 8];
        // SAFETY: as in `ring`.
        unsafe { libc::read(self.descriptor(), count.as_mut_ptr().cast(), count.len()) };
    }

    pub fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
