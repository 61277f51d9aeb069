//! The file: one line a call, whole or not there.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use serde_json::{Value, json};

#[derive(Debug)]
pub struct Record {
    file: Mutex<File>,
    calls: AtomicU64,
}

impl Record {
    pub fn create(path: &Path) -> Result<Record> {
        let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Record { file: Mutex::new(file), calls: AtomicU64::new(0) })
    }

    /// The number of a call that comes now.
    pub fn next(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed)
    }

    pub fn write(
        &self,
        at: u64,
        call: &str,
        request: &Value,
        answer: Option<&Value>,
        error: Option<&str>,
    ) -> Result<()> {
        let until = self.calls.load(Ordering::Relaxed);
        let line = json!({
            "at": at, "until": until, "call": call, "request": request, "answer": answer, "error": error,
        });
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(format!("{line}\n").as_bytes()).context("writing the record")
    }
}
