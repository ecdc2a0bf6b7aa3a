//! Types asked for by name, on BTF made by hand.

use lava_guest::btf::{Field, Param, TypeError, Types};
use lava_guest::fake::kernel::Btf;

const PTR: u32 = 2;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FWD: u32 = 7;
const TYPEDEF: u32 = 8;
const CONST: u32 = 10;
const ENUM64: u32 = 19;
const KIND_FLAG: u32 = 1 << 31;

fn plain(offset: u64, size: u64) -> Result<Field, TypeError> {
    Ok(Field { offset, size, ..Field::default() })
}

#[test]
fn members() {
    let mut b = Btf::default();
    let int = b.record("int", 1, 0, 4, &[32]);
    // Declared before it is defined: the definition is what counts.
    let declared = b.record("inner", FWD, 0, 0, &[]);
    let inner = b.strukt("inner", 8, &[("first", int), ("second", int)]);
    let alias = b.record("inner_t", TYPEDEF, 0, inner, &[]);
    let constant = b.record("", CONST, 0, alias, &[]);
    let slots = b.array(constant, 3);
    let rows = b.array(slots, 2);
    let either = b.strukt("", 0, &[("left", int), ("right", constant)]);
    let nameless = b.strukt("", 16, &[("", either), ("deep", int)]);
    b.strukt(
        "outer",
        64,
        &[("a", int), ("", nameless), ("c", constant), ("slots", slots), ("rows", rows), ("fwd", declared)],
    );
    b.record("outer_t", TYPEDEF, 0, 10, &[]);
    let t = Types::parse(&b.finish()).unwrap();
    assert_eq!(t.member("outer", "a"), plain(0, 4));
    assert_eq!(t.member("outer", "left"), plain(64, 4));
    assert_eq!(t.member("outer", "right.second"), plain(72, 4));
    assert_eq!(t.member("outer", "deep"), plain(80, 4));
    assert_eq!(t.member("outer", "c"), plain(128, 16));
    assert_eq!(t.member("outer", "c.second"), plain(136, 4));
    assert_eq!(t.member("outer", "slots"), plain(192, 48));
    assert_eq!(t.member("outer", "slots[2].second"), plain(192 + 32 + 8, 4));
    assert_eq!(t.member("outer", "rows"), plain(256, 96));
    assert_eq!(t.member("outer", "fwd.second"), plain(328, 4));
    assert_eq!(t.member("outer_t", "c"), plain(128, 16));
    assert_eq!(t.size_of("outer"), Ok(384));
    assert_eq!(t.size_of("int"), Err(TypeError::NoType("int".into())));
    assert_eq!(t.size_of("inner_t"), Ok(16));
    for path in ["", ".", "a.b", "nope", "slots[3]", "slots[x]", "slots[", "c[0]", "slots[18446744073709551615]"] {
        let missing = TypeError::NoMember { strukt: "outer".into(), member: path.into() };
        assert_eq!(t.member("outer", path), Err(missing));
    }
    assert_eq!(t.member("nope", "a"), Err(TypeError::NoType("nope".into())));
    assert!(t.has_struct("inner") && !t.has_struct("inner_t"));
}

#[test]
fn bit_fields() {
    let mut b = Btf::default();
    let int = b.record("int", 1, 0, 4, &[32]);
    let (bits, plain_member) = (3 << 24 | 37, 64);
    // Names are offsets into the strings; "int" is the only one there is so far.
    b.record("int_bits", STRUCT, 2 | KIND_FLAG, 12, &[1, int, bits, 5, int, plain_member]);
    let t = Types::parse(&b.finish()).unwrap();
    assert_eq!(t.member("int_bits", "int"), Ok(Field { offset: 4, size: 1, bit_offset: 5, bit_size: 3 }));
    assert_eq!(t.member("int_bits", "int_bits"), plain(8, 4));
}

#[test]
fn functions_and_constants() {
    let mut b = Btf::default();
    let int = b.record("int", 1, 0, 4, &[32]);
    let file = b.record("file", FWD, 0, 0, &[]);
    let constant = b.record("", CONST, 0, file, &[]);
    let pointer = b.record("", PTR, 0, constant, &[]);
    let alias = b.record("file_p", TYPEDEF, 0, pointer, &[]);
    let twice = b.record("", PTR, 0, pointer, &[]);
    b.function("open", &[("file", alias), ("mask", int), ("", twice)]);
    // Names of constants: 1 is "int", 5 is "file".
    b.record("colour", ENUM, 1, 4, &[1, 7]);
    b.record("sign", ENUM, 1 | KIND_FLAG, 4, &[1, -1i32 as u32]);
    b.record("wide", ENUM64, 1, 8, &[5, 1, 1]);
    let t = Types::parse(&b.finish()).unwrap();
    let param = |name: &str, pointee: Option<&str>| Param { name: name.into(), pointee: pointee.map(Into::into) };
    assert_eq!(t.function("open").unwrap(), [param("file", Some("file")), param("mask", None), param("", None)]);
    assert_eq!((t.param_index("open", "mask"), t.param_index("open", "nope")), (Some(1), None));
    assert_eq!(t.function("int"), None);
    assert_eq!(t.enum_value(None, "int"), Some(7));
    assert_eq!(t.enum_value(Some("sign"), "int"), Some(-1));
    assert_eq!(t.enum_value(None, "file"), Some(0x1_0000_0001));
    assert_eq!(t.enum_value(Some("nope"), "int"), None);
}

/// Types that hold themselves end the question, not the program.
#[test]
fn cycles() {
    let mut b = Btf::default();
    b.record("loop", TYPEDEF, 0, 1, &[]);
    b.record("self", STRUCT, 2, 8, &[0, 2, 0, 0, 2, 0]);
    b.record("", 3, 0, 0, &[3, 3, u32::MAX]);
    b.record("endless", STRUCT, 1, 8, &[1, 3, u32::MAX]);
    b.record("wild", UNION, 1, 8, &[1, 4_000_000_000, 0]);
    let t = Types::parse(&b.finish()).unwrap();
    assert!(t.member("loop", "x").is_err() && t.size_of("loop").is_err());
    assert!(t.member("self", "x").is_err());
    assert_eq!(t.member("endless", "loop").map(|f| f.size), Ok(0));
    assert_eq!(t.member("wild", "loop"), Err(TypeError::NoMember { strukt: "wild".into(), member: "loop".into() }));
}

#[test]
fn damage() {
    let mut b = Btf::default();
    b.strukt("s", 8, &[("a", 0)]);
    let good = b.finish();
    assert!(Types::parse(&good).is_ok());
    for cut in 0..good.len() {
        assert!(Types::parse(&good[..cut]).is_err(), "cut at {cut}");
    }
    let mut unknown = good.clone();
    unknown[24 + 7] = 20;
    assert!(matches!(Types::parse(&unknown), Err(TypeError::Malformed(_))));
}
