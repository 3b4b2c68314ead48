use super::*;
use std::sync::{Arc, Mutex};

/// A serial port that remembers what is typed.
#[derive(Clone, Default)]
struct Port(Arc<Mutex<Vec<u8>>>);

impl Write for Port {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_script_is_typed_once_when_the_user_space_has_begun() {
    let port = Port::default();
    let mut keyboard = Keyboard::new(Asking::Script("stats; map"), Box::new(port.clone()));
    let mut seen = Observed::new();
    seen.started = Some(slat_hv_protocol::Started::default());
    keyboard.tick(&seen, true).unwrap();
    assert_eq!(*port.0.lock().unwrap(), b"");
    seen.printed[0].seconds_to_init = Some(1.0);
    (0..3).for_each(|_| keyboard.tick(&seen, true).unwrap());
    assert_eq!(*port.0.lock().unwrap(), b"\x1dstats; map\ncontinue\n");
}

#[test]
fn somebody_elses_guest_has_begun_when_it_was_started() {
    let port = Port::default();
    let mut keyboard = Keyboard::new(Asking::Script("map; quit \n"), Box::new(port.clone()));
    let mut seen = Observed::new();
    keyboard.tick(&seen, false).unwrap();
    assert_eq!(*port.0.lock().unwrap(), b"");
    seen.started = Some(slat_hv_protocol::Started::default());
    keyboard.tick(&seen, false).unwrap();
    assert_eq!(*port.0.lock().unwrap(), b"\x1dmap; quit \n\n");
}

#[test]
fn a_script_is_read_to_its_end_first() {
    let port = Port::default();
    let input = lines(io::Cursor::new(b"map\nstats\n".to_vec()));
    let source = Source::Collected(input, Vec::new());
    let mut keyboard = Keyboard { source, port: Some(Box::new(port.clone())), closed_at: 0 };
    let mut seen = Observed::new();
    seen.started = Some(slat_hv_protocol::Started::default());
    for _ in 0..1000 {
        keyboard.tick(&seen, false).unwrap();
        thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(*port.0.lock().unwrap(), b"\x1dmap\nstats\n\ncontinue\n");
}

#[test]
fn when_the_input_is_over_the_monitor_is_closed() {
    let port = Port::default();
    let mut keyboard = Keyboard {
        source: Source::Lines(lines(io::empty())),
        port: Some(Box::new(port.clone())),
        closed_at: 0,
    };
    let mut seen = Observed::new();
    seen.started = Some(slat_hv_protocol::Started::default());
    (seen.monitor, seen.monitor_open) = (vec!["stopped".to_owned()], true);
    for _ in 0..1000 {
        keyboard.tick(&seen, true).unwrap();
        thread::sleep(std::time::Duration::from_millis(1));
        if !port.0.lock().unwrap().is_empty() {
            break;
        }
    }
    keyboard.tick(&seen, true).unwrap();
    assert_eq!(*port.0.lock().unwrap(), [END], "once");
}
