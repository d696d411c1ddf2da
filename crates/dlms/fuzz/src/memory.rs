//! How much a piece of code allocates: an allocator that counts, each thread for itself.
#![allow(
    unsafe_code,
    reason = "an allocator is unsafe to implement; this one passes every call on"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// What was allocated since [`measure`] began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Use {
    /// The most octets held at one time.
    pub peak: usize,
    /// The largest single allocation.
    pub largest: usize,
    /// How many allocations.
    pub count: usize,
}

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static USE: Cell<Use> = const { Cell::new(Use { peak: 0, largest: 0, count: 0 }) };
}

/// The system's allocator, counted.
pub struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        given_back(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        given_back(layout.size());
        taken(size);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Runs it, and says what it allocated.
pub fn measure<T>(run: impl FnOnce() -> T) -> (T, Use) {
    HELD.set(0);
    USE.set(Use::default());
    let value = run();
    (value, USE.get())
}

fn taken(octets: usize) {
    let held = HELD.get().saturating_add(octets);
    HELD.set(held);
    let before = USE.get();
    USE.set(Use {
        peak: before.peak.max(held),
        largest: before.largest.max(octets),
        count: before.count.saturating_add(1),
    });
}

fn given_back(octets: usize) {
    HELD.set(HELD.get().saturating_sub(octets));
}
