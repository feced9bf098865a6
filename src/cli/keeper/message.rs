//! What a notification asks for (sd_notify(3), sd_pid_notify_with_fds(3)).

use std::time::Duration;

/// One notification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    /// `READY=1`.
    pub ready: bool,
    /// `FDSTORE=1`.
    pub store: bool,
    /// `FDSTOREREMOVE=1`.
    pub remove: bool,
    /// `BARRIER=1`.
    pub barrier: bool,
    /// `FDNAME=`, or the name that a descriptor without one has.
    pub name: String,
    /// Not `FDPOLL=0`: a kept descriptor that turns out dead is dropped.
    pub poll: bool,
    /// `EXTEND_TIMEOUT_USEC=`.
    pub extend: Option<Duration>,
    /// The lines for our own service manager.
    pub pass_on: String,
}

impl Message {
    /// Reads a notification; lines that mean nothing to us are passed on.
    pub fn parse(text: &str, stopping: bool) -> Message {
        let mut message = Message { poll: true, name: "stored".to_owned(), ..Message::default() };
        for line in text.lines() {
            let (key, value) = line.split_once('=').unwrap_or((line, ""));
            let passed = match key {
                "FDSTORE" => {
                    message.store = value == "1";
                    false
                }
                "FDSTOREREMOVE" => {
                    message.remove = value == "1";
                    false
                }
                "BARRIER" => {
                    message.barrier = value == "1";
                    false
                }
                "FDNAME" => {
                    if is_name(value) {
                        value.clone_into(&mut message.name);
                    }
                    false
                }
                "FDPOLL" => {
                    message.poll = value != "0";
                    false
                }
                "READY" => {
                    message.ready |= value == "1";
                    true
                }
                "EXTEND_TIMEOUT_USEC" => {
                    message.extend = value.parse().ok().map(Duration::from_micros);
                    true
                }
                // The main process is the keeper, and it stops only when it was told to.
                "MAINPID" | "WATCHDOG" | "WATCHDOG_USEC" => false,
                "STOPPING" => stopping,
                _ => !line.is_empty(),
            };
            if passed {
                message.pass_on.push_str(line);
                message.pass_on.push('\n');
            }
        }
        message
    }
}

fn is_name(name: &str) -> bool {
    let usable = |c: char| c.is_ascii() && !c.is_ascii_control() && c != ':';
    !name.is_empty() && name.len() <= 255 && name.chars().all(usable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_us_is_not_passed_on() {
        let message = Message::parse("FDSTORE=1\nFDNAME=fuse\nFDPOLL=0\n", false);
        assert!(message.store && !message.poll && !message.remove && !message.ready);
        assert_eq!((message.name.as_str(), message.pass_on.as_str()), ("fuse", ""));
        let message =
            Message::parse("READY=1\nSTATUS=a=b\nMAINPID=1\nEXTEND_TIMEOUT_USEC=5", false);
        assert!(message.ready);
        assert_eq!(message.extend, Some(Duration::from_micros(5)));
        assert_eq!(message.pass_on, "READY=1\nSTATUS=a=b\nEXTEND_TIMEOUT_USEC=5\n");
    }

    #[test]
    fn an_unusable_name_becomes_the_usual_one() {
        for name in ["", "a:b", "a\tb", &"x".repeat(256)] {
            assert_eq!(Message::parse(&format!("FDSTORE=1\nFDNAME={name}"), false).name, "stored");
        }
    }

    #[test]
    fn a_hand_over_does_not_look_like_a_stop() {
        assert_eq!(Message::parse("STOPPING=1", false).pass_on, "");
        assert_eq!(Message::parse("STOPPING=1", true).pass_on, "STOPPING=1\n");
    }

    #[test]
    fn nonsense_means_nothing() {
        for text in ["", "\n\n", "READY=0", "READY", "FDSTORE=", "=1", "EXTEND_TIMEOUT_USEC=x"] {
            let message = Message::parse(text, false);
            assert!(!message.ready && !message.store && message.extend.is_none(), "{text:?}");
        }
    }
}
