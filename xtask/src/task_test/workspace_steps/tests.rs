use super::count;

#[test]
fn result_lines_are_summed() {
    let output = "running 3 tests\n\
        test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 1.53s\n\
        junk\n\
        test result: FAILED. 7 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
    assert_eq!(count(output).to_string(), "9 passed, 2 failed, 1 skipped");
    assert_eq!(count("error: could not compile").to_string(), "0 passed, 0 failed, 0 skipped");
}
