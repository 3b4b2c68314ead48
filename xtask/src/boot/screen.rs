//! The text screen of memtest86+ 6 and later, and what it says.

/// What it shows when it has come far enough: three of the tests are over, each of which went through all of the memory.
pub(crate) const FAR_ENOUGH: &str = "Test #4";

/// Whether the memory test has come far enough without an error.
///
/// # Errors
/// What the screen says instead, in one line.
pub(crate) fn check(screen: &str) -> Result<(), String> {
    let number = |label: &str| {
        let text = screen.split_once(label)?.1.trim_start();
        let digits = text.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(text.len());
        text[..digits].parse::<u64>().ok()
    };
    let (Some(test), Some(errors)) = (number("Test #"), number("Errors:")) else {
        return Err("the screen is not that of memtest86+".to_owned());
    };
    let passed = number("Pass:").unwrap_or(0) > 0;
    if errors > 0 {
        return Err(format!("memtest86+ found {errors} errors in the guest's memory by test {test}"));
    }
    if test < 4 && !passed {
        return Err(format!("memtest86+ came to test {test} only"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
