use super::{Size, parse, parse_range};

#[test]
fn numbers_are_read_as_people_write_them() {
    let good = [
        ("0", 0),
        ("0x8000_0000", 0x8000_0000),
        ("0Xff", 0xff),
        ("4096", 4096),
        ("16M", 16 << 20),
        ("1T", 1 << 40),
        ("0xffffffffffffffff", u64::MAX),
        ("18446744073709551615", u64::MAX),
    ];
    for (text, number) in good {
        assert_eq!(parse(text), Ok(number), "{text}");
    }
    let bad = [
        "",
        "0x",
        "0x+1",
        "-1",
        "+1",
        "1.5",
        "K",
        "0x1_0000_0000_0000_0000",
        "18446744073709551616",
        "16777216T",
        "a",
        "1Ki",
    ];
    for text in bad {
        assert!(parse(text).is_err(), "{text}");
    }
}

#[test]
fn ranges_have_an_end_that_is_left_out_or_a_size() {
    assert_eq!(parse_range("0x1000-0x2000"), Ok((0x1000, 0x1fff)));
    assert_eq!(parse_range("0x1000+4K"), Ok((0x1000, 0x1fff)));
    for text in ["0x1000", "2-1", "5-5", "0-0", "1+0", "0xffffffffffffffff+2", "a-b", ""] {
        assert!(parse_range(text).is_err(), "{text}");
    }
}

#[test]
fn sizes_are_short() {
    let text = |size: u128| Size(size).to_string();
    assert_eq!(text(0), "0 B");
    assert_eq!(text(4096), "4 KiB");
    assert_eq!(text(1 << 40), "1 TiB");
    assert_eq!(text((1 << 30) + 4096), "1.0 GiB");
    assert_eq!(text(u128::from(u64::MAX) + 1), "16 EiB");
}
