use super::median;

#[test]
fn the_median_of_three_is_the_middle_one() {
    assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(median(vec![5.0]), Some(5.0));
    assert_eq!(median(Vec::new()), None);
}
