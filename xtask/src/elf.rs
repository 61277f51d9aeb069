//! Whether an ELF program is static: it is when no program header names an interpreter.

use std::path::Path;

use anyhow::{Context, Result, ensure};

const PT_INTERP: u32 = 3;

/// True when the program needs no dynamic loader, so that it runs in an image that holds nothing else.
pub fn is_static(path: &Path) -> Result<bool> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let interpreter = has_interpreter(&bytes);
    ensure!(interpreter.is_some(), "{} is not a 64-bit little-endian ELF program", path.display());
    Ok(interpreter == Some(false))
}

/// `None` when the bytes are not such a file. Layout: `Elf64_Ehdr` and `Elf64_Phdr` of elf(5).
fn has_interpreter(bytes: &[u8]) -> Option<bool> {
    if bytes.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let u16_at = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let phoff = usize::try_from(u64::from_le_bytes(bytes.get(32..40)?.try_into().ok()?)).ok()?;
    let (phentsize, phnum) = (usize::from(u16_at(54)?), usize::from(u16_at(56)?));
    for i in 0..phnum {
        let at = phoff.checked_add(i * phentsize)?;
        let kind = bytes.get(at..at.checked_add(4)?)?;
        if kind == PT_INTERP.to_le_bytes() {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_a_dynamic_program_from_no_program() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(has_interpreter(&own), Some(true));
        for cut in [0, 5, 20, 60, 70] {
            assert_eq!(has_interpreter(&own[..cut]), None, "{cut} bytes");
        }
        assert_eq!(has_interpreter(b"#!/bin/sh\n"), None);
    }
}
