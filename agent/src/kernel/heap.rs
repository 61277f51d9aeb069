//! How much memory the process keeps beyond what it uses. All of it is locked (`mlockall`), and locked pages are given back
//! by `brk` and `munmap` alone, not by the `madvise` that allocators go by: what is kept for later stays resident for good.

/// Blocks from this size on are mapped by themselves, and unmapped when they are freed. Left to itself glibc raises this to
/// the largest block that was ever freed, which is the kernel's BTF, and keeps twice as much unused at the top of the heap.
#[cfg(target_env = "gnu")]
const MAPPED_FROM_BYTES: libc::c_int = 64 << 10;
/// What may be unused at the top of the heap.
#[cfg(target_env = "gnu")]
const UNUSED_BYTES: libc::c_int = 128 << 10;
/// Heaps of their own that threads are spread over. Each keeps what its threads have freed; glibc makes eight for each CPU.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;

/// To be called before there are other threads.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES),
        (libc::M_TRIM_THRESHOLD, UNUSED_BYTES),
        (libc::M_ARENA_MAX, ARENAS),
    ] {
        // SAFETY: no preconditions; it sets a number of the allocator's.
        let set = unsafe { libc::mallopt(parameter, value) };
        if set == 0 {
            tracing::debug!(parameter, value, "the allocator does not take this");
        }
    }
}

/// Gives back what is unused, while it is not locked yet.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions; it returns free heap pages to the kernel.
    unsafe {
        libc::malloc_trim(0);
    }
}
