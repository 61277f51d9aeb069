//! Reads BTF, the kernel's own description of its types: member offsets, enum values, prototypes of
//! tracepoints and functions. Input is the blob of `/sys/kernel/btf/vmlinux` or a pruned one ([`prune`]); the format is
//! documented in the kernel's Documentation/bpf/btf.rst.
//!
//! rustc emits no CO-RE relocations, so user space looks offsets up here and writes them into the eBPF
//! object before it is loaded.

pub mod prune;

use std::path::{Path, PathBuf};

const MAGIC: u16 = 0xeb9f;
/// A modifier or member chain longer than this is a cycle in a damaged blob.
const MAX_DEPTH: usize = 32;

#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    #[error("read BTF from {path}: {source}; the kernel needs CONFIG_DEBUG_INFO_BTF")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("BTF blob of {len} bytes: {what}")]
    Malformed { len: usize, what: &'static str },
    #[error("BTF has no {what} `{name}`")]
    Missing { what: &'static str, name: String },
}

/// `BTF_KIND_*` of include/uapi/linux/btf.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Int,
    Ptr,
    Array,
    Struct,
    Union,
    Enum,
    Fwd,
    Typedef,
    /// volatile, const, restrict, type tag: the type behind it is what matters.
    Modifier,
    Func,
    FuncProto,
    Enum64,
    /// var, datasec, float, decl tag.
    Other,
}

/// One type record. `size_or_type` is the size in bytes or the type id behind this one, by kind.
#[derive(Clone, Copy, Debug)]
pub struct Type {
    pub kind: Kind,
    name_off: u32,
    raw_kind: u32,
    kind_flag: bool,
    vlen: usize,
    pub size_or_type: u32,
    /// Where the record's trailing data begins in the blob.
    body: usize,
}

/// One member of a struct or union. `name` is empty for an anonymous one.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    pub name: &'a str,
    pub type_id: u32,
    pub bit_offset: u32,
}

/// Parsed BTF. Type id 0 is void.
#[derive(Debug)]
pub struct Btf {
    blob: Vec<u8>,
    strings: std::ops::Range<usize>,
    /// Offset of each type's record in the blob; the index is the type id minus one.
    records: Vec<u32>,
    /// Type ids by the kind's number, ascending: a kernel has hundreds of thousands of types, and each lookup by name goes
    /// through all of one kind.
    by_kind: Vec<Vec<u32>>,
}

impl Btf {
    /// # Errors
    /// The file cannot be read, or is not BTF.
    pub fn read(path: &Path) -> Result<Btf, BtfError> {
        let blob = std::fs::read(path).map_err(|source| BtfError::Read { path: path.to_owned(), source })?;
        Btf::parse(blob)
    }

    /// # Errors
    /// The blob is cut short, of the other byte order, or has a type kind that did not exist when this was written.
    pub fn parse(blob: Vec<u8>) -> Result<Btf, BtfError> {
        let len = blob.len();
        let fail = |what| BtfError::Malformed { len, what };
        let magic = blob.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes));
        match magic {
            Some(MAGIC) => {}
            Some(other) if other == MAGIC.swap_bytes() => return Err(fail("it is of the other byte order")),
            _ => return Err(fail("it does not start with the BTF magic number")),
        }
        let header = |at| word(&blob, at).map(|v| v as usize).ok_or_else(|| fail("the header is cut short"));
        let (hdr_len, type_off, type_len) = (header(4)?, header(8)?, header(12)?);
        let (str_off, str_len) = (header(16)?, header(20)?);
        let section = |off: usize, section_len: usize| {
            let start = hdr_len.checked_add(off)?;
            let end = start.checked_add(section_len)?;
            (end <= len).then_some(start..end)
        };
        let types = section(type_off, type_len).ok_or_else(|| fail("the type section is cut short"))?;
        let strings = section(str_off, str_len).ok_or_else(|| fail("the string section is cut short"))?;
        let mut records = Vec::new();
        let mut by_kind = vec![Vec::new(); Kind::Other as usize + 1];
        let mut at = types.start;
        while at < types.end {
            let record = read_type(&blob, at).ok_or_else(|| fail("a type record is cut short"))?;
            records.push(u32::try_from(at).map_err(|_| fail("it is larger than 4 GiB"))?);
            // The last offset fits, so their number does.
            by_kind[record.kind as usize].push(records.len() as u32);
            at = record.body + trailing_len(&record).ok_or_else(|| fail("a type is of an unknown kind"))?;
        }
        if at != types.end {
            return Err(fail("the last type record is cut short"));
        }
        Ok(Btf { blob, strings, records, by_kind })
    }

    #[must_use]
    pub fn type_at(&self, id: u32) -> Option<Type> {
        let index = id.checked_sub(1)?;
        read_type(&self.blob, *self.records.get(index as usize)? as usize)
    }

    #[must_use]
    pub fn name(&self, ty: &Type) -> &str {
        self.string(ty.name_off)
    }

    fn string(&self, offset: u32) -> &str {
        let start = self.strings.start.saturating_add(offset as usize);
        let bytes = self.blob.get(start..self.strings.end).unwrap_or_default();
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        std::str::from_utf8(&bytes[..end]).unwrap_or_default()
    }

    /// Whether the string at `offset` is `text`.
    fn is_string(&self, offset: u32, text: &str) -> bool {
        let start = self.strings.start.saturating_add(offset as usize);
        let rest = self.blob.get(start..self.strings.end).unwrap_or_default();
        rest.strip_prefix(text.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }

    /// Finds a named type.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, kinds: &[Kind], name: &str) -> Result<u32, BtfError> {
        self.of_kinds(kinds)
            .find(|(_, at)| word(&self.blob, *at).is_some_and(|offset| self.is_string(offset, name)))
            .map(|(id, _)| id)
            .ok_or_else(|| BtfError::Missing { what: "type", name: name.to_owned() })
    }

    /// Id and place of each type of these kinds, kind by kind.
    fn of_kinds(&self, kinds: &[Kind]) -> impl Iterator<Item = (u32, usize)> {
        let ids = kinds.iter().flat_map(|kind| &self.by_kind[*kind as usize]);
        ids.map(|id| (*id, self.records[*id as usize - 1] as usize))
    }

    /// The type behind typedefs and modifiers.
    #[must_use]
    pub fn resolve(&self, mut id: u32) -> Option<(u32, Type)> {
        for _ in 0..MAX_DEPTH {
            let ty = self.type_at(id)?;
            match ty.kind {
                Kind::Typedef | Kind::Modifier => id = ty.size_or_type,
                _ => return Some((id, ty)),
            }
        }
        None
    }

    /// Members of a struct or union; none for another type.
    pub fn members(&self, ty: &Type) -> impl Iterator<Item = Member<'_>> {
        let count = if matches!(ty.kind, Kind::Struct | Kind::Union) { ty.vlen } else { 0 };
        let (body, kind_flag) = (ty.body, ty.kind_flag);
        (0..count).map_while(move |index| {
            let at = body + index * 12;
            let offset = word(&self.blob, at + 8)?;
            Some(Member {
                name: self.string(word(&self.blob, at)?),
                type_id: word(&self.blob, at + 4)?,
                // With the kind flag the upper byte is a bit field's width.
                bit_offset: if kind_flag { offset & 0x00ff_ffff } else { offset },
            })
        })
    }

    /// Byte offset of a member of the struct `name`. `path` names nested members with dots
    /// (`memory.usage`); anonymous structs and unions on the way are looked through.
    ///
    /// # Errors
    /// The struct or the member does not exist in this kernel, or is a bit field.
    pub fn offset_of(&self, name: &str, path: &str) -> Result<u32, BtfError> {
        self.member(name, path).map(|(offset, _)| offset)
    }

    /// Like [`Btf::offset_of`], with the member's type, resolved.
    ///
    /// # Errors
    /// As [`Btf::offset_of`].
    pub fn member(&self, name: &str, path: &str) -> Result<(u32, Type), BtfError> {
        let mut ty = self.type_at(self.find(&[Kind::Struct, Kind::Union], name)?);
        let mut bits = 0u32;
        let missing = || BtfError::Missing { what: "member", name: format!("{name}.{path}") };
        for part in path.split('.') {
            let (offset, type_id) =
                self.find_member(&ty.ok_or_else(missing)?, part, 0).ok_or_else(missing)?;
            bits = bits.checked_add(offset).ok_or_else(missing)?;
            ty = self.resolve(type_id).map(|(_, ty)| ty);
        }
        match ty {
            Some(ty) if bits.is_multiple_of(8) => Ok((bits / 8, ty)),
            _ => Err(missing()),
        }
    }

    fn find_member(&self, ty: &Type, name: &str, depth: usize) -> Option<(u32, u32)> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.members(ty).find_map(|member| {
            if member.name == name && !name.is_empty() {
                return Some((member.bit_offset, member.type_id));
            }
            let (_, inner) = self.resolve(member.type_id).filter(|_| member.name.is_empty())?;
            let (offset, type_id) = self.find_member(&inner, name, depth + 1)?;
            Some((member.bit_offset.checked_add(offset)?, type_id))
        })
    }

    /// Element type and count of an array.
    #[must_use]
    pub fn array(&self, ty: &Type) -> Option<(u32, u32)> {
        (ty.kind == Kind::Array).then_some(())?;
        Some((word(&self.blob, ty.body)?, word(&self.blob, ty.body + 8)?))
    }

    /// Size in bytes of a type that has one of its own.
    #[must_use]
    pub fn size_of(&self, id: u32) -> Option<u32> {
        let (_, ty) = self.resolve(id)?;
        matches!(ty.kind, Kind::Int | Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64)
            .then_some(ty.size_or_type)
    }

    /// Name and value of each enumerator of a 32-bit enum.
    pub fn enumerators(&self, ty: &Type) -> impl Iterator<Item = (&str, u32)> {
        let count = if ty.kind == Kind::Enum { ty.vlen } else { 0 };
        let body = ty.body;
        (0..count).map_while(move |index| {
            let at = body + index * 8;
            Some((self.string(word(&self.blob, at)?), word(&self.blob, at + 4)?))
        })
    }

    /// Value of an enumerator, in whichever 32-bit enum it is: the kernel's are unique.
    ///
    /// # Errors
    /// No enum of this kernel has it.
    pub fn enum_value(&self, name: &str) -> Result<u32, BtfError> {
        self.of_kinds(&[Kind::Enum])
            .filter_map(|(_, at)| read_type(&self.blob, at))
            .find_map(|ty| self.enumerators(&ty).find(|(n, _)| *n == name).map(|(_, value)| value))
            .ok_or_else(|| BtfError::Missing { what: "enumerator", name: name.to_owned() })
    }

    /// Type ids of a tracepoint's arguments, without the private data pointer that comes first: the
    /// prototype behind the typedef `btf_trace_<name>`.
    ///
    /// # Errors
    /// The kernel has no such tracepoint.
    pub fn tracepoint_args(&self, name: &str) -> Result<Vec<u32>, BtfError> {
        let typedef = format!("btf_trace_{name}");
        let missing = || BtfError::Missing { what: "tracepoint", name: name.to_owned() };
        let id = self.find(&[Kind::Typedef], &typedef)?;
        let (_, pointer) = self.resolve(id).ok_or_else(missing)?;
        let (_, proto) = self.resolve(pointer.size_or_type).ok_or_else(missing)?;
        if pointer.kind != Kind::Ptr || proto.kind != Kind::FuncProto {
            return Err(missing());
        }
        Ok(self.parameters(&proto).skip(1).collect())
    }

    /// Type ids of a kernel function's arguments. A function that the compiler inlined or cloned
    /// (`.constprop`, `.isra`) is not there: it cannot be hooked by its name either.
    ///
    /// # Errors
    /// The kernel has no such function.
    pub fn function_args(&self, name: &str) -> Result<Vec<u32>, BtfError> {
        let missing = || BtfError::Missing { what: "function", name: name.to_owned() };
        let id = self.find(&[Kind::Func], name).map_err(|_| missing())?;
        let proto = self.type_at(id).and_then(|func| self.type_at(func.size_or_type));
        let proto = proto.filter(|ty| ty.kind == Kind::FuncProto).ok_or_else(missing)?;
        Ok(self.parameters(&proto).collect())
    }

    fn parameters(&self, proto: &Type) -> impl Iterator<Item = u32> {
        let body = proto.body;
        (0..proto.vlen).map_while(move |index| word(&self.blob, body + index * 8 + 4))
    }

    /// The struct's name when `id` is a pointer to a named struct.
    #[must_use]
    pub fn pointee_struct(&self, id: u32) -> Option<&str> {
        let (_, pointer) = self.resolve(id).filter(|(_, ty)| ty.kind == Kind::Ptr)?;
        let (_, target) = self.resolve(pointer.size_or_type)?;
        matches!(target.kind, Kind::Struct | Kind::Fwd).then(|| self.string(target.name_off))
    }
}

fn word(blob: &[u8], at: usize) -> Option<u32> {
    let bytes = blob.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn read_type(blob: &[u8], at: usize) -> Option<Type> {
    let info = word(blob, at + 4)?;
    let raw_kind = raw_kind(info);
    Some(Type {
        kind: kind_of(raw_kind),
        name_off: word(blob, at)?,
        raw_kind,
        kind_flag: info >> 31 != 0,
        vlen: (info & 0xffff) as usize,
        size_or_type: word(blob, at + 8)?,
        body: at + 12,
    })
}

const fn raw_kind(info: u32) -> u32 {
    (info >> 24) & 0x1f
}

const fn kind_of(raw_kind: u32) -> Kind {
    match raw_kind {
        1 => Kind::Int,
        2 => Kind::Ptr,
        3 => Kind::Array,
        4 => Kind::Struct,
        5 => Kind::Union,
        6 => Kind::Enum,
        7 => Kind::Fwd,
        8 => Kind::Typedef,
        9..=11 | 18 => Kind::Modifier,
        12 => Kind::Func,
        13 => Kind::FuncProto,
        19 => Kind::Enum64,
        _ => Kind::Other,
    }
}

/// Bytes behind a type record. `None` for a kind that is not known: what follows cannot be found then.
fn trailing_len(ty: &Type) -> Option<usize> {
    Some(match ty.raw_kind {
        1 | 14 | 17 => 4,
        2 | 7..=12 | 16 | 18 => 0,
        3 => 12,
        4 | 5 | 15 | 19 => ty.vlen * 12,
        6 | 13 => ty.vlen * 8,
        _ => return None,
    })
}

#[cfg(test)]
pub(crate) mod tests;
