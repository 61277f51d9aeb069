//! The record of signals, forecasts and actions: who, what, when on the monotonic clock, and why.

pub mod record;
