//! Round trips of the contract, and refusal of what is not part of it.

use super::*;
use alloc::string::ToString;

fn params() -> Params {
    Params {
        nonce: "abc".to_string(),
        pool: Span { address: 0x4800_0000, size: 0x1000_0000 },
        recording: Span::default(),
        trace: Span::default(),
        kernel: Span { address: MemoryMap::AARCH64.blobs, size: 123 },
        initrd: Span::default(),
        guest_memory: 128 << 20,
        cpus: 2,
        guests: 1,
        host_cpus: None,
        gpa_bits: Some(40),
        bootargs: "console=ttyAMA0 \"quoted\"".to_string(),
        leaf: Leaf::Auto,
        on_fault: FaultPolicy::Inject,
        churn: Some(Churn { seed: 7, per_exit: 2, limit: 1000 }),
        mistake: Mistake::Ipas2Alone,
        page_requests: true,
        unit_guests: Vec::new(),
        until_screen: None,
        until_console: None,
        pause: None,
        monitor: false,
        paging: None,
    }
}

#[test]
fn params_survive_the_round_trip() {
    let block = encode_params(&params()).expect("fits");
    assert_eq!(decode_params(&block), Ok(params()));
}

#[test]
fn a_damaged_block_is_refused() {
    let block = encode_params(&params()).expect("fits");
    assert!(decode_params(&block[..4]).is_err());
    assert!(decode_params(&block[..block.len() - 1]).is_err());
    assert!(decode_params(&[0xff; 64]).is_err());
    let long = Params { bootargs: "x".repeat(PARAMS_MAX), ..params() };
    assert!(encode_params(&long).is_err());
}

#[test]
fn only_the_right_nonce_is_believed() {
    let message = Message::Failed { reason: "no memory".to_string() };
    let line = encode_message("secret", &message);
    assert_eq!(decode_message("secret", &line), Some(message));
    assert_eq!(decode_message("other", &line), None);
    assert_eq!(decode_message("secret", &line[1..]), None);
    assert_eq!(decode_message("secret", "slat-hv:secret {\"message\":\"ended\"}"), None);
}

#[test]
fn a_failure_needs_no_heap_to_be_understood() {
    let mut line = String::new();
    write_failure(&mut line, "secret", format_args!("panicked at \"{}\":\n\tnot {}", "a\\b", 5))
        .expect("a string");
    let reason = "panicked at \"a\\b\":  not 5".to_string();
    assert_eq!(decode_message("secret", &line), Some(Message::Failed { reason }));
}
