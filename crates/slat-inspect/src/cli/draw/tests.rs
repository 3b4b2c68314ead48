use super::layout::pieces;
use super::{Colour, MOST_DRAWN, Picture};
use crate::cli::runs::{self, Troubles};
use crate::{Cpu, Format, Root, Tables};

const GIB: u64 = 1 << 18;

fn ends(ranges: &[(u64, u64)]) -> Vec<(u64, u64)> {
    pieces(ranges.iter().copied()).iter().map(|piece| (piece.start, piece.end)).collect()
}

#[test]
fn a_guest_of_a_terabyte_shows_its_small_parts() {
    let guest = [(0, 0xa0), (0x100, 3 * GIB), (0xf_ec00, 0xf_ec01), (4 * GIB, 1024 * GIB)];
    let pieces = pieces(guest.into_iter());
    let ends: Vec<_> = pieces.iter().map(|piece| (piece.start, piece.end)).collect();
    assert_eq!(ends, guest, "each of these holes is large beside its neighbours");
    let total: f64 = pieces.iter().map(|piece| piece.weight).sum();
    assert!(pieces.iter().all(|piece| piece.weight / total > 0.01), "each part can be seen: {pieces:?}");
}

#[test]
fn holes_that_are_small_beside_what_is_around_them_stay() {
    let guest = [(0, 1000), (1001, 2000), (2001, 3000)];
    assert_eq!(ends(&guest), [(0, 3000)]);
    assert_eq!(ends(&[]), []);
    assert_eq!(ends(&[(5, 6)]), [(5, 6)]);
}

#[test]
fn however_many_holes_there_are_few_are_folded() {
    let pages: Vec<_> = (0..100_000).map(|page| (10 * page, 10 * page + 1)).collect();
    let pieces = pieces(pages.iter().copied());
    assert!(pieces.len() <= 41 && pieces.windows(2).all(|pair| pair[0].end < pair[1].start));
}

/// Pages whose frames are in no order.
fn scattered(count: u64) -> Vec<u64> {
    let mut words = vec![0; 512 * 4];
    words.resize(512 * (4 + count.div_ceil(512)) as usize, 0);
    (words[0], words[512]) = (0x2007, 0x3007);
    for table in 0..count.div_ceil(512) {
        words[1024 + table as usize] = ((5 + table) << 12) | 7;
    }
    for page in 0..count {
        words[2048 + page as usize] = ((page * 7919 % 100_000) << 12) | 0x37;
    }
    words
}

fn picture(count: u64) -> Picture {
    let words = scattered(count);
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let dump = crate::cli::dump::Dump::of_bytes(bytes, Some(0x1000), Default::default()).unwrap();
    let tables = Tables::new(Root::new(Format::Ept, 0x1000).unwrap(), Cpu::permissive(Format::Ept));
    let (found, _) = runs::collect((&dump, &tables), 0..=u64::MAX, 1 << 24, false).unwrap();
    Picture::new("<a> & b".to_owned(), tables, &found, Troubles::default()).unwrap()
}

#[test]
fn pages_without_order_become_one_range_where_they_are_too_many() {
    let few = picture(300);
    assert_eq!(few.ranges.len(), 300);
    assert!(few.ranges.iter().all(|range| range.in_a_row));
    let many = picture(MOST_DRAWN as u64 + 512);
    assert_eq!(many.ranges.len(), 1);
    assert!(!many.ranges[0].in_a_row);
}

#[test]
fn names_do_not_become_markup() {
    let picture = picture(3);
    for colour in [Colour::Permissions, Colour::Size, Colour::Memory] {
        let mut svg = Vec::new();
        picture.write_svg(colour, &mut svg).unwrap();
        let svg = String::from_utf8(svg).unwrap();
        assert!(svg.contains("&lt;a&gt; &amp; b") && !svg.contains("<a>"));
        assert!(svg.contains("12 KiB") && svg.ends_with("</svg>\n"));
    }
    let mut page = Vec::new();
    picture.write_page(&mut page).unwrap();
    let page = String::from_utf8(page).unwrap();
    assert!(!page.contains("<a>") && !page.contains("{{") && page.ends_with("</html>\n"));
}
