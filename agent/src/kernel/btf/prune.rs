//! Cuts a kernel's BTF down to what [`layout`](crate::kernel::layout) reads: a few kilobytes of a few
//! megabytes, small enough to keep one per supported kernel as a test fixture. Nested and anonymous
//! structs keep their shape, pointers lead to a forward declaration, everything else goes.

use std::collections::HashMap;

use super::{Btf, BtfError, Kind, MAGIC, Type};

/// What to keep. Names that this kernel does not have are left out, as the kernel does.
#[derive(Clone, Copy, Debug)]
pub struct Keep<'a> {
    /// Struct name and the members to keep.
    pub members: &'a [(&'a str, &'a [&'a str])],
    pub enumerators: &'a [&'a str],
    /// Tracepoint names, without `btf_trace_`.
    pub tracepoints: &'a [&'a str],
    /// Kernel functions, with their prototypes.
    pub functions: &'a [&'a str],
}

/// # Errors
/// None of the structs exists: the blob is not of a kernel.
pub fn prune(btf: &Btf, keep: &Keep<'_>) -> Result<Vec<u8>, BtfError> {
    let mut writer =
        Writer { btf, keep, types: Vec::new(), strings: vec![0], next_id: 1, copied: HashMap::new() };
    let mut found = false;
    for (name, _) in keep.members {
        if let Ok(id) = btf.find(&[Kind::Struct, Kind::Union], name) {
            writer.copy(id, &[]);
            found = true;
        }
    }
    if !found {
        return Err(BtfError::Missing {
            what: "struct",
            name: keep.members.first().map(|(name, _)| (*name).to_owned()).unwrap_or_default(),
        });
    }
    writer.copy_enums();
    for name in keep.tracepoints {
        if let Ok(args) = btf.tracepoint_args(name) {
            writer.tracepoint(name, &args);
        }
    }
    for name in keep.functions {
        if let Ok(args) = btf.function_args(name) {
            writer.function(name, &args);
        }
    }
    Ok(writer.finish())
}

struct Writer<'a> {
    btf: &'a Btf,
    keep: &'a Keep<'a>,
    types: Vec<u8>,
    strings: Vec<u8>,
    next_id: u32,
    /// Old type id → new one.
    copied: HashMap<u32, u32>,
}

impl Writer<'_> {
    fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let offset = u32::try_from(self.strings.len()).expect("a pruned blob is far below 4 GiB");
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        offset
    }

    fn emit(&mut self, name: &str, raw_kind: u32, vlen: usize, size_or_type: u32, body: &[u32]) -> u32 {
        let name_off = self.string(name);
        let info = raw_kind << 24 | u32::try_from(vlen).expect("vlen has 16 bits");
        for word in [name_off, info, size_or_type].iter().chain(body) {
            self.types.extend_from_slice(&word.to_ne_bytes());
        }
        self.next_id += 1;
        self.next_id - 1
    }

    /// Copies a type and what it holds by value; typedefs and modifiers are looked through. `outer` names
    /// the members to keep of an anonymous struct: those that its parent keeps.
    fn copy(&mut self, id: u32, outer: &[&str]) -> u32 {
        let Some((id, ty)) = self.btf.resolve(id) else {
            return 0;
        };
        if let Some(new) = self.copied.get(&id) {
            return *new;
        }
        let btf = self.btf;
        let name = btf.name(&ty);
        let new = match ty.kind {
            Kind::Int => {
                let encoding = super::word(&btf.blob, ty.body).unwrap_or(0);
                self.emit(name, 1, 0, ty.size_or_type, &[encoding])
            }
            Kind::Ptr => {
                let target = btf.resolve(ty.size_or_type);
                let target = match target {
                    Some((_, t))
                        if matches!(t.kind, Kind::Struct | Kind::Fwd) && !btf.name(&t).is_empty() =>
                    {
                        self.emit(btf.name(&t), 7, 0, 0, &[])
                    }
                    _ => 0,
                };
                self.emit("", 2, 0, target, &[])
            }
            Kind::Array => {
                let (element, count) = btf.array(&ty).unwrap_or((0, 0));
                let element = self.copy(element, &[]);
                let index = super::word(&btf.blob, ty.body + 4).unwrap_or(0);
                let index = self.copy(index, &[]);
                self.emit("", 3, 0, 0, &[element, index, count])
            }
            Kind::Struct | Kind::Union => self.copy_struct(name, &ty, outer),
            Kind::Enum | Kind::Enum64 => self.emit(name, 6, 0, ty.size_or_type, &[]),
            _ => return 0,
        };
        self.copied.insert(id, new);
        new
    }

    fn copy_struct(&mut self, name: &str, ty: &Type, outer: &[&str]) -> u32 {
        let btf = self.btf;
        let listed = self.keep.members.iter().find(|(of, _)| *of == name).map(|(_, members)| *members);
        let wanted = listed.unwrap_or(if name.is_empty() { outer } else { &[] });
        let mut body = Vec::new();
        for member in btf.members(ty) {
            let holds_wanted = || {
                let inner = btf.resolve(member.type_id);
                inner.is_some_and(|(_, inner)| wanted.iter().any(|w| btf.find_member(&inner, w, 0).is_some()))
            };
            let keep = if member.name.is_empty() { holds_wanted() } else { wanted.contains(&member.name) };
            if !keep {
                continue;
            }
            let type_id = self.copy(member.type_id, if member.name.is_empty() { wanted } else { &[] });
            let name_off = self.string(member.name);
            body.extend([name_off, type_id, member.bit_offset]);
        }
        let raw_kind = if ty.kind == Kind::Struct { 4 } else { 5 };
        self.emit(name, raw_kind, body.len() / 3, ty.size_or_type, &body)
    }

    /// Every enum that has a wanted enumerator, with the wanted ones only.
    fn copy_enums(&mut self) {
        let btf = self.btf;
        for id in 1..=u32::try_from(btf.records.len()).unwrap_or(u32::MAX) {
            let Some(ty) = btf.type_at(id).filter(|ty| ty.kind == Kind::Enum) else {
                continue;
            };
            let mut body = Vec::new();
            for (name, value) in btf.enumerators(&ty) {
                if self.keep.enumerators.contains(&name) {
                    let name_off = self.string(name);
                    body.extend([name_off, value]);
                }
            }
            if !body.is_empty() {
                self.emit(btf.name(&ty), 6, body.len() / 2, ty.size_or_type, &body);
            }
        }
    }

    fn tracepoint(&mut self, name: &str, args: &[u32]) {
        let private_data = self.emit("", 2, 0, 0, &[]);
        let proto = self.prototype(vec![0, private_data], args);
        let pointer = self.emit("", 2, 0, proto, &[]);
        self.emit(&format!("btf_trace_{name}"), 8, 0, pointer, &[]);
    }

    /// A global function: `BTF_FUNC_GLOBAL` stands where a struct has its member count.
    fn function(&mut self, name: &str, args: &[u32]) {
        let proto = self.prototype(Vec::new(), args);
        self.emit(name, 12, 1, proto, &[]);
    }

    /// `body` holds the parameters that come first, as pairs of name and type.
    fn prototype(&mut self, mut body: Vec<u32>, args: &[u32]) -> u32 {
        for arg in args {
            let type_id = self.copy(*arg, &[]);
            body.extend([0, type_id]);
        }
        self.emit("", 13, body.len() / 2, 0, &body)
    }

    fn finish(self) -> Vec<u8> {
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a pruned blob is far below 4 GiB");
        let mut blob = Vec::new();
        blob.extend_from_slice(&MAGIC.to_ne_bytes());
        // Version 1, no flags.
        blob.extend_from_slice(&[1, 0]);
        let header_len = 24;
        for word in [header_len, 0, len(&self.types), len(&self.types), len(&self.strings)] {
            blob.extend_from_slice(&word.to_ne_bytes());
        }
        blob.extend_from_slice(&self.types);
        blob.extend_from_slice(&self.strings);
        blob
    }
}
