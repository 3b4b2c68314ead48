use super::{FAR_ENOUGH, check};

fn screen(test: &str, pass: &str, errors: &str) -> String {
    format!(
        "      Memtest86+ v6.10      | AMD EPYC Processor\n\
         CLK/Temp: 2600MHz           | Pass 47% ##################\n\
         L1 Cache:   64KB            | Test 88% ###################################\n\
         L2 Cache:  512KB            | Test #{test}  [Moving inversions, 64 bit pattern]\n\
         CPU: 1 Cores 1 Threads    SMP: Disabled   | Time:  0:00:08  Status: Testing  -\n\
         Using: All Cores                          | Pass:  {pass}        Errors: {errors}\n"
    )
}

#[test]
fn the_test_and_the_errors_count() {
    let good = screen("4", "0", "0");
    assert!(good.contains(FAR_ENOUGH));
    assert_eq!(check(&good), Ok(()));
    assert_eq!(check(&screen("1", "1", "0")), Ok(()), "in the second round");
    assert_eq!(check(&screen("10", "0", "0")), Ok(()));
    assert!(check(&screen("3", "0", "0")).unwrap_err().contains("test 3 only"));
    assert!(check(&screen("4", "0", "1")).unwrap_err().contains("1 errors"));
    assert!(check(&screen("4", "0", "12345")).unwrap_err().contains("12345 errors"));
    assert!(check("").unwrap_err().contains("not that of memtest86+"));
    assert!(check(&screen("4", "0", "")).is_err());
}
