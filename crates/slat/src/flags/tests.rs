use super::LeafSize;

#[test]
fn a_leaf_size_is_that_of_its_level() {
    for size in LeafSize::ALL {
        assert_eq!(LeafSize::from_level(size.level()), Some(size));
        assert_eq!(size.bytes(), 4096 << (9 * size.level()));
    }
    assert_eq!(LeafSize::from_level(3), None);
}
