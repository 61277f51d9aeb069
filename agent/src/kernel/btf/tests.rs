use proptest::prelude::*;

use super::*;

/// Writes BTF by hand, for shapes that no fixture has.
#[derive(Default)]
pub(crate) struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
}

impl Builder {
    fn string(&mut self, text: &str) -> u32 {
        if self.strings.is_empty() {
            self.strings.push(0);
        }
        let at = self.strings.len() as u32;
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        if text.is_empty() { 0 } else { at }
    }

    pub(crate) fn add(&mut self, name: &str, info: u32, size_or_type: u32, body: &[u32]) -> u32 {
        let name = self.string(name);
        for word in [name, info, size_or_type].iter().chain(body) {
            self.types.extend_from_slice(&word.to_ne_bytes());
        }
        self.count += 1;
        self.count
    }

    pub(crate) fn int(&mut self, name: &str, size: u32) -> u32 {
        self.add(name, 1 << 24, size, &[size * 8])
    }

    pub(crate) fn pointer(&mut self, to: u32) -> u32 {
        self.add("", 2 << 24, to, &[])
    }

    pub(crate) fn array(&mut self, of: u32, index: u32, count: u32) -> u32 {
        self.add("", 3 << 24, 0, &[of, index, count])
    }

    /// Members as (name, type, byte offset).
    pub(crate) fn structure(&mut self, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        let body: Vec<u32> =
            members.iter().flat_map(|(name, ty, offset)| [self.string(name), *ty, offset * 8]).collect();
        self.add(name, 4 << 24 | members.len() as u32, size, &body)
    }

    pub(crate) fn enumeration(&mut self, name: &str, values: &[(&str, u32)]) -> u32 {
        let body: Vec<u32> = values.iter().flat_map(|(name, value)| [self.string(name), *value]).collect();
        self.add(name, 6 << 24 | values.len() as u32, 4, &body)
    }

    pub(crate) fn typedef(&mut self, name: &str, of: u32) -> u32 {
        self.add(name, 8 << 24, of, &[])
    }

    /// `btf_trace_<name>` with these arguments behind the private data pointer.
    pub(crate) fn tracepoint(&mut self, name: &str, args: &[u32]) {
        let data = self.pointer(0);
        let body: Vec<u32> = std::iter::once(&data).chain(args).flat_map(|ty| [0, *ty]).collect();
        let proto = self.add("", 13 << 24 | (args.len() as u32 + 1), 0, &body);
        let pointer = self.pointer(proto);
        self.typedef(&format!("btf_trace_{name}"), pointer);
    }

    /// A function with these arguments.
    pub(crate) fn function(&mut self, name: &str, args: &[u32]) {
        let body: Vec<u32> = args.iter().flat_map(|ty| [0, *ty]).collect();
        let proto = self.add("", 13 << 24 | args.len() as u32, 0, &body);
        self.add(name, 12 << 24 | 1, proto, &[]);
    }

    pub(crate) fn blob(&self) -> Vec<u8> {
        let mut blob = Vec::from(MAGIC.to_ne_bytes());
        blob.extend_from_slice(&[1, 0]);
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        for word in [24, 0, types, types, strings] {
            blob.extend_from_slice(&word.to_ne_bytes());
        }
        blob.extend_from_slice(&self.types);
        blob.extend_from_slice(&self.strings);
        blob
    }

    pub(crate) fn build(&self) -> Btf {
        Btf::parse(self.blob()).expect("the builder writes valid BTF")
    }
}

/// `outer { u32 first; const inner_t in; struct { u64 deep; struct { u16 deeper; }; }; bit field }`.
fn nested() -> Builder {
    let mut b = Builder::default();
    let (u16, u32, u64) = (b.int("u16", 2), b.int("u32", 4), b.int("u64", 8));
    let inner = b.structure("inner", 16, &[("a", u64, 0), ("b", u64, 8)]);
    let typedef = b.typedef("inner_t", inner);
    let constant = b.add("", 10 << 24, typedef, &[]);
    let deeper = b.structure("", 8, &[("deeper", u16, 4)]);
    let anonymous = b.structure("", 16, &[("deep", u64, 0), ("", deeper, 8)]);
    let (name_first, name_in, name_bit) = (b.string("first"), b.string("in"), b.string("bit"));
    // The kind flag: the upper byte of an offset is a bit field's width.
    let body = [
        [name_first, u32, 0],
        [name_in, constant, 8 * 8],
        [0, anonymous, 24 * 8],
        [name_bit, u32, 3 << 24 | (40 * 8 + 5)],
    ]
    .concat();
    b.add("outer", 1 << 31 | 4 << 24 | 4, 48, &body);
    b
}

#[test]
fn offsets_of_members() {
    let btf = nested().build();
    let check =
        |path: &str, expected: Option<u32>| assert_eq!(btf.offset_of("outer", path).ok(), expected, "{path}");
    check("first", Some(0));
    check("in", Some(8));
    check("in.b", Some(16));
    check("deep", Some(24));
    check("deeper", Some(36));
    check("bit", None);
    check("in.c", None);
    check("first.x", None);
    check("", None);
    assert!(btf.offset_of("nobody", "first").is_err());
}

#[test]
fn sizes_enums_and_prototypes() {
    let mut b = Builder::default();
    let int = b.int("int", 4);
    let task = b.structure("task_struct", 64, &[("pid", int, 8)]);
    let pointer = b.pointer(task);
    let array = b.array(int, int, 3);
    b.enumeration("e", &[("ZERO", 0), ("SEVEN", 7)]);
    b.tracepoint("mark_victim", &[pointer, int]);
    b.function("kill", &[pointer, int]);
    b.function("nothing", &[]);
    let btf = b.build();
    assert_eq!(btf.function_args("kill").ok(), Some(vec![pointer, int]));
    assert_eq!(btf.function_args("nothing").ok(), Some(vec![]));
    assert!(btf.function_args("task_struct").is_err(), "a struct is no function");
    assert_eq!(btf.size_of(task), Some(64));
    assert_eq!(btf.size_of(pointer), None);
    assert_eq!(btf.type_at(array).and_then(|ty| btf.array(&ty)), Some((int, 3)));
    assert_eq!(btf.enum_value("SEVEN").ok(), Some(7));
    assert!(btf.enum_value("EIGHT").is_err());
    assert_eq!(btf.tracepoint_args("mark_victim").ok(), Some(vec![pointer, int]));
    assert_eq!(btf.pointee_struct(pointer), Some("task_struct"));
    assert_eq!(btf.pointee_struct(int), None);
    assert!(btf.tracepoint_args("other").is_err());
}

#[test]
fn a_cycle_ends() {
    let mut b = Builder::default();
    // A typedef of itself, and a struct whose anonymous member is itself.
    b.add("loop", 8 << 24, 1, &[]);
    b.add("again", 4 << 24 | 1, 8, &[0, 2, 0]);
    let btf = b.build();
    assert!(btf.resolve(1).is_none());
    assert!(btf.offset_of("again", "x").is_err());
}

#[test]
fn what_is_not_btf_is_refused() {
    let blob = nested().blob();
    let mut swapped = blob.clone();
    swapped.swap(0, 1);
    let mut unknown_kind = blob.clone();
    // The first type record's info word.
    unknown_kind[28..32].copy_from_slice(&(31u32 << 24).to_ne_bytes());
    let check = |blob: &[u8], expected: &str| {
        let error = Btf::parse(blob.to_vec()).expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(&[], "magic");
    check(b"\x7fELF", "magic");
    check(&swapped, "byte order");
    check(&blob[..10], "header");
    check(&blob[..40], "type section");
    check(&blob[..blob.len() - 1], "string section");
    check(&unknown_kind, "unknown kind");
}

proptest! {
    #[test]
    fn damaged_blobs_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut blob = nested().blob();
        for (index, byte) in edits {
            let at = index.index(blob.len());
            blob[at] = byte;
        }
        if let Ok(btf) = Btf::parse(blob) {
            let _ = btf.offset_of("outer", "in.b");
            let _ = btf.offset_of("outer", "deeper");
            let _ = btf.enum_value("x");
            let _ = btf.tracepoint_args("mark_victim");
        }
    }
}
