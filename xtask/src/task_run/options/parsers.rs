//! How values on the command line are read.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::de::DeserializeOwned;
use slat_hv_model::Cpu;

/// Reads `64M`, `1G`, `65536K` or a plain number of bytes.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|last: char| !last.is_ascii_digit());
    let unit: u64 = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => 1,
        "K" | "KIB" => 1 << 10,
        "M" | "MIB" => 1 << 20,
        "G" | "GIB" => 1 << 30,
        _ => return Err("a number with a suffix K, M or G is needed, such as 128M".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "a number such as 128M is needed".to_owned())?;
    number.checked_mul(unit).ok_or_else(|| "the number is too large".to_owned())
}

/// Reads the name of a second-level format.
pub(super) fn parse_format(text: &str) -> Result<Cpu, String> {
    let named = Cpu::ALL.into_iter().find(|cpu| cpu.format() == text);
    named.ok_or_else(|| format!("one of {} is needed", Cpu::ALL.map(Cpu::format).join(", ")))
}

/// A parser for an enumeration of the protocol, by the names that the protocol itself uses.
pub(super) fn one_of<T>(names: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(names)
        .try_map(|name: String| serde_json::from_value::<T>(serde_json::Value::String(name)))
}
