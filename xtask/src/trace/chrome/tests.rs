use super::write;
use crate::trace::tests::trace;
use serde_json::Value;

#[test]
fn every_event_has_its_line() {
    let mut text = Vec::new();
    write(&trace(), "a \"title\"", &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let value: Value = serde_json::from_str(&text).expect("JSON");
    let events = value["traceEvents"].as_array().expect("events");
    // One process, two tracks, and all events but the one that nobody knows.
    assert_eq!(events.len(), 3 + 11);
    assert_eq!(
        (events[0]["args"]["name"].as_str(), events[2]["tid"].as_u64()),
        (Some("a \"title\""), Some(1))
    );
    let find = |name: &str| events.iter().find(|event| event["name"] == name).unwrap_or(&Value::Null);
    let fault = find("fault: populated");
    assert_eq!(
        (fault["ts"].as_f64(), fault["dur"].as_f64(), fault["tid"].as_u64()),
        (Some(90.0), Some(110.0), Some(0))
    );
    assert_eq!((&fault["args"]["gpa"], &fault["args"]["leaf"]), (&"0x40001234".into(), &"4K".into()));
    assert_eq!(find("fault: outside of the space")["cat"], "refused");
    assert_eq!(find("frames in use")["args"]["frames"], 64);
    assert_eq!(find("invalidation of ranges")["args"]["reach"], "all CPUs");
    let refused = events.iter().filter(|event| event["args"]["refused"] == "bad argument").count();
    assert_eq!((refused, find("map_alloc")["args"]["count"].as_u64()), (1, Some(0)));
}
