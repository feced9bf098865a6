//! The threads that read sources. One that hangs hangs alone.

use super::error::Result;
use super::keeper::Word;
use super::source::{Batch, Feed};
use crate::limits;
use crossbeam_channel::{Receiver, Sender, bounded};

/// A question: what came after this position?
pub(super) struct Question {
    /// Goes up when the cache is made anew: answers to older questions mean nothing.
    pub epoch: u64,
    pub position: Option<String>,
}

/// What came of it.
pub(super) struct Answer {
    pub feed: usize,
    pub epoch: u64,
    pub batch: Result<Batch>,
}

/// Starts a thread that answers questions about a source until nobody asks any more.
///
/// # Errors
/// There is no room for a thread.
pub(super) fn start(
    number: usize,
    mut feed: Box<dyn Feed>,
    answers: Sender<Word>,
) -> std::io::Result<Sender<Question>> {
    let (ask, asked): (_, Receiver<Question>) = bounded(limits::CALL_BATCHES_AHEAD);
    let work = move || {
        for Question { epoch, position } in asked {
            let batch = feed.read(position.as_deref());
            if answers.send(Word::Answer(Answer { feed: number, epoch, batch })).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name(format!("spoolfs-cdr-{number}")).spawn(work)?;
    Ok(ask)
}
