//! A counter that several CPUs add to. core's atomics have no read-modify-write on this target, so the one
//! instruction that every supported kernel knows is written out (the fetching kinds came with 5.12).

#[cfg(target_arch = "bpf")]
use core::arch::asm;
use core::cell::UnsafeCell;

/// Lives in a map's value. Signed: see where it is taken off again.
#[repr(transparent)]
pub struct Counter(UnsafeCell<i64>);

// SAFETY: both accesses are atomic with respect to each other.
unsafe impl Sync for Counter {}

impl Counter {
    pub const fn zero() -> Counter {
        Counter(UnsafeCell::new(0))
    }

    #[inline(always)]
    pub fn add(&self, value: i64) {
        // SAFETY: the pointer is this counter's aligned 64-bit word, and the add is atomic.
        #[cfg(target_arch = "bpf")]
        unsafe {
            asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) self.0.get(), in(reg) value);
        }
        // `cargo check` of the workspace compiles this crate for the host, where it never runs.
        #[cfg(not(target_arch = "bpf"))]
        let _ = value;
    }

    #[inline(always)]
    pub fn load(&self) -> i64 {
        // SAFETY: an aligned 64-bit word is read whole.
        unsafe { self.0.get().read_volatile() }
    }
}
