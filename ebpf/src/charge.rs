//! A forecast in the kernel: every charge to a memcg comes through `page_counter_try_charge`, so this is where growth
//! is seen first, in the kernel's own numbers, and together with the limit that it runs into.
//!
//! The function serves counters of swap, kernel memory, TCP buffers and huge pages as well. Which memcg a counter belongs
//! to is found by taking it for a `mem_cgroup.memory` and checking the way back: the cgroup that the supposed memcg names
//! must have this very memcg as its memory controller's state. Another counter's surroundings never fulfil that.

use aya_ebpf::macros::{fentry, map};
use aya_ebpf::maps::{Array, HashMap};
use aya_ebpf::programs::FEntryContext;
use oomlet_ebpf_common::layout::ABSENT;
use oomlet_ebpf_common::record::{ChargeForecast, ChargeWindow, Level, MAX_LEVELS, kind};

use crate::globals::{global, read_field};
use crate::memcg;
use crate::ring::{URGENT, header, now_ns, send};

/// Memcgs that the agent wants forecasts of, by cgroup id in the memory hierarchy. The agent fills and empties it.
#[map]
static CHARGED: HashMap<u64, ChargeWindow> = HashMap::with_max_entries(8192, 0);

/// How many those are: with none of them a charge costs one look.
#[map]
static CHARGED_COUNT: Array<u64> = Array::with_max_entries(1, 0);

/// Bounds that keep the products below 64 bits, here and in the agent's tuning: 16 TiB of 4 KiB pages, half a second.
const MOST_PAGES: u64 = 1 << 32;
const MOST_NS: u64 = 1 << 30;

/// A memcg that is about to run into its limit.
struct Due {
    css: u64,
    level: Level,
    grown_pages: u64,
    window_ns: u64,
}

#[fentry(function = "page_counter_try_charge")]
pub fn page_counter_try_charge(ctx: FEntryContext) -> i32 {
    match CHARGED_COUNT.get(0) {
        Some(count) if *count > 0 => {}
        _ => return 0,
    }
    let counter: u64 = ctx.arg::<*const u8>(0) as u64;
    if !is_memory(counter) {
        return 0;
    }
    let ts = now_ns();
    if let Some(due) = first_due(counter, ctx.arg::<u64>(1), ts) {
        report(&due, ts);
    }
    0
}

/// Whether it is the `memory` counter of a memcg: see the module's documentation.
#[inline(always)]
fn is_memory(counter: u64) -> bool {
    let Some(css) = css_of(counter) else {
        return false;
    };
    let Some(cgroup) = read_field::<u64>(css, global!(LAYOUT.css_cgroup)) else {
        return false;
    };
    read_field::<u64>(cgroup, global!(LAYOUT.cgroup_memory)) == Some(css)
}

#[inline(always)]
fn css_of(counter: u64) -> Option<u64> {
    let offset = global!(LAYOUT.mem_cgroup_memory);
    if offset == ABSENT || counter == 0 {
        return None;
    }
    memcg::css_of(counter - u64::from(offset))
}

/// Looks at the charged memcg and its ancestors. One record per charge is enough: the next charge finds the next level.
#[inline(always)]
fn first_due(leaf: u64, charge: u64, ts: u64) -> Option<Due> {
    let mut counter = leaf;
    let mut walked = 0;
    while walked < MAX_LEVELS {
        let css = css_of(counter)?;
        let cgroup = read_field::<u64>(css, global!(LAYOUT.css_cgroup))?;
        let id = memcg::cgroup_id(cgroup)?;
        if let Some(window) = CHARGED.get_ptr_mut(id)
            && let Some(due) = look(window, css, id, charge, ts)
        {
            return Some(due);
        }
        counter = read_field::<u64>(counter, global!(LAYOUT.page_counter_parent))?;
        walked += 1;
    }
    None
}

#[inline(always)]
fn look(window: *mut ChargeWindow, css: u64, id: u64, charge: u64, ts: u64) -> Option<Due> {
    let memcg = memcg::of_css(css)?;
    let limit_pages = read_field::<u64>(memcg, global!(LAYOUT.mem_cgroup_max))?;
    if limit_pages > MOST_PAGES {
        // No limit, or none that a process could run into before the node ends.
        return None;
    }
    let pages = memcg::usage_pages(css)?.saturating_add(charge).min(MOST_PAGES);
    // SAFETY: the verifier knows the pointer as a map value. Aligned 64-bit words are not torn; where two CPUs write at
    // once one window is a little off, and a record is a hint.
    let (since, pages_then, last_sent) = unsafe {
        (
            (&raw const (*window).since_ns).read_volatile(),
            (&raw const (*window).pages_then).read_volatile(),
            (&raw const (*window).last_sent_ns).read_volatile(),
        )
    };
    let window_ns = ts.saturating_sub(since);
    if window_ns < global!(TUNING.forecast_window_min_ns) {
        return None;
    }
    let fresh = window_ns <= global!(TUNING.forecast_window_max_ns) && window_ns <= MOST_NS;
    let grown_pages = pages.saturating_sub(pages_then);
    let runs_out = fresh && runs_out(limit_pages, pages, grown_pages, window_ns);
    let told = ts < last_sent.saturating_add(global!(TUNING.forecast_cool_down_ns));
    // A window goes on while it shows nothing, so that slow growth adds up; it starts anew when it has been judged.
    if !fresh || runs_out || pages < pages_then {
        // SAFETY: as above.
        unsafe {
            (&raw mut (*window).since_ns).write_volatile(ts);
            (&raw mut (*window).pages_then).write_volatile(pages);
        }
    }
    if !runs_out || told {
        return None;
    }
    // SAFETY: as above.
    unsafe { (&raw mut (*window).last_sent_ns).write_volatile(ts) };
    let usage_bytes = pages * global!(TUNING.page_size);
    Some(Due { css, level: Level { id, usage_bytes, limit_pages }, grown_pages, window_ns })
}

/// Grows so fast that the limit is reached within the horizon, or grows with hardly anything left.
#[inline(always)]
fn runs_out(limit_pages: u64, pages: u64, grown_pages: u64, window_ns: u64) -> bool {
    if grown_pages < global!(TUNING.growth_min_faults) {
        return false;
    }
    let headroom = limit_pages.saturating_sub(pages);
    // headroom / (grown / window) <= horizon, without a division.
    let soon = headroom * window_ns <= grown_pages * global!(TUNING.forecast_horizon_ns);
    soon || headroom < limit_pages >> global!(TUNING.forecast_low_shift)
}

#[inline(always)]
fn report(due: &Due, ts: u64) {
    let Some(hierarchy) = memcg::hierarchy(due.css) else {
        return;
    };
    let record = ChargeForecast {
        header: header::<ChargeForecast>(kind::CHARGE_FORECAST, ts),
        memcg: due.level,
        grown_bytes: due.grown_pages * global!(TUNING.page_size),
        window_ns: due.window_ns,
        hierarchy,
        reserved: 0,
    };
    send(record, URGENT);
}
