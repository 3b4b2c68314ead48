use super::{json, rows};
use crate::boot::printed::Printed;
use crate::boot::session::{Goal, Guest, Observed};
use slat_hv_protocol::{End, Faults, GuestReport, Leaves};

fn guest() -> Guest {
    let sha256 = Some("abc".to_owned());
    Guest {
        kernel: "k".into(),
        initrd: None,
        bootargs: String::new(),
        memory: 0,
        sha256,
        results: Vec::new(),
        goal: Goal::PowerOff,
    }
}

fn seen() -> Observed {
    let faults = Faults { total: 7, ..Faults::default() };
    let of = |guest, end| GuestReport {
        guest,
        end,
        faults,
        leaves: Leaves::default(),
        table_pages: 3,
        exits: 90,
        firmware_calls: 4,
        own: slat_hv_protocol::pause::OwnFrames { tables: 3, memory: 50 },
    };
    let out_of_memory = End::OutOfMemory { description: "at 0x1".to_owned() };
    let good = Printed { seconds_to_init: Some(2.5), sha256: Some("abc".to_owned()), ..Printed::default() };
    Observed {
        printed: vec![good, Printed::default()],
        // In the order in which they ended.
        guests: vec![of(1, out_of_memory), of(0, End::PowerOff)],
        ..Observed::new()
    }
}

#[test]
fn each_guest_has_its_row() {
    let rows = rows(&guest(), &seen());
    assert_eq!(rows[0].0, "guest 1");
    assert_eq!(
        rows[0].1,
        "ended, as no frame was left, memory NOT confirmed; no init; 7 faults of 90 exits, 3 table pages"
    );
    assert_eq!(
        rows[1].1,
        "powered itself off, memory unharmed; init after 2.50 s; 7 faults of 90 exits, 3 table pages"
    );
    assert!(super::rows(&guest(), &Observed::new()).is_empty());
}

#[test]
fn each_guest_has_its_object() {
    let (guest, seen) = (guest(), seen());
    let value = serde_json::to_value(json(&guest, &seen)).unwrap();
    assert_eq!(value[0]["end"]["kind"], "out-of-memory");
    assert_eq!((&value[1]["guest"], &value[1]["sha256_ok"]), (&0.into(), &true.into()));
    assert_eq!((&value[1]["seconds_to_init"], &value[1]["exits"]), (&2.5.into(), &90.into()));
}
