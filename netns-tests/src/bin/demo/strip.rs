//! One character a ping: every 5 ms a request leaves one pod for another, and is drawn when it
//! was answered or its time is over.
use std::collections::VecDeque;
use std::io::Write;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use weft_netns::{Netns, wait_until};

use crate::echo::Echo;
use crate::{paint, weftd};

pub(crate) const EVERY: Duration = Duration::from_millis(5);
/// Who is not answered by then is lost.
pub(crate) const LIMIT: Duration = Duration::from_millis(100);
const WIDTH: usize = 72;

/// What the drawing thread and the one that makes trouble both look at.
#[derive(Default)]
pub(crate) struct Strip {
    board: Mutex<Board>,
}

#[derive(Default)]
struct Board {
    sent: usize,
    /// Behind which ping, what.
    events: VecDeque<(usize, String)>,
    over: bool,
}

impl Strip {
    /// Pings `to` from `from` for as long as `trouble` takes; whether each was answered.
    pub(crate) fn during(from: &Netns, to: Ipv4Addr, trouble: impl FnOnce(&Self)) -> Vec<bool> {
        let strip = Self::default();
        let echo = from
            .enter(|| Echo::open(to))
            .expect("open a socket for pings");
        std::thread::scope(|scope| {
            let drawing = scope.spawn(|| strip.draw(&echo));
            let end = End(&strip);
            trouble(&strip);
            drop(end);
            drawing.join().expect("the thread that draws")
        })
    }

    /// Something happens; the number of the first ping that it could hit.
    pub(crate) fn mark(&self, what: &str) -> usize {
        let mut board = self.board();
        let sent = board.sent;
        board.events.push_back((sent, what.to_owned()));
        sent
    }

    pub(crate) fn sent(&self) -> usize {
        self.board().sent
    }

    /// Waits until so many more are sent.
    pub(crate) fn let_pass(&self, pings: usize) {
        let enough = self.sent() + pings;
        wait_until("pings are sent", weftd::PATIENCE, || self.sent() >= enough);
    }

    fn draw(&self, echo: &Echo) -> Vec<bool> {
        let (mut asked, mut answered) = (Vec::<Instant>::new(), Vec::<bool>::new());
        let mut line = Line::default();
        let mut next = Instant::now();
        loop {
            let over = self.board().over;
            let now = Instant::now();
            if !over && now >= next {
                let number = asked.len();
                asked.push(now);
                answered.push(false);
                self.board().sent = asked.len();
                // A way that is blocked is as good as one that leads nowhere.
                let _ = echo.send(wrapped(number));
                next += EVERY;
            }
            // Whatever is here has come in time, however late this thread is at reading it.
            while let Some(number) = echo.answered() {
                let fits = |n: &usize| wrapped(*n) == number;
                if let Some(n) = (line.drawn..asked.len()).find(fits) {
                    answered[n] = true;
                }
            }
            let settled = |n: usize| answered[n] || asked[n].elapsed() > LIMIT;
            while line.drawn < asked.len() && settled(line.drawn) {
                line.push(answered[line.drawn], self);
            }
            if over && line.drawn == asked.len() {
                line.end(self);
                return answered;
            }
            echo.wait(next.saturating_duration_since(Instant::now()).min(EVERY));
        }
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the strip, also when the trouble has failed.
struct End<'a>(&'a Strip);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.board().over = true;
    }
}

/// What is being drawn; below each line stands what happened meanwhile.
#[derive(Default)]
struct Line {
    drawn: usize,
    column: usize,
}

impl Line {
    fn push(&mut self, answered: bool, strip: &Strip) {
        if self.column == 0 {
            let since = EVERY * u32::try_from(self.drawn).unwrap_or(u32::MAX);
            print!(
                "    {} ",
                paint::dim(&format!("{:>5} ms", since.as_millis()))
            );
        }
        let character = if answered {
            paint::good("·")
        } else {
            paint::bad("x")
        };
        print!("{character}");
        let _ = std::io::stdout().flush();
        self.drawn += 1;
        self.column += 1;
        if self.column == WIDTH {
            self.end(strip);
        }
    }

    fn end(&mut self, strip: &Strip) {
        if self.column == 0 {
            return;
        }
        println!();
        let first = self.drawn - self.column;
        self.column = 0;
        let mut board = strip.board();
        while let Some((at, _)) = board.events.front()
            && (*at < self.drawn || board.over)
        {
            let Some((at, what)) = board.events.pop_front() else {
                break;
            };
            let column = at.saturating_sub(first).min(WIDTH - 1);
            // What would not fit to the right of its place stands to the left of it.
            if column + 2 + what.chars().count() <= WIDTH {
                println!("             {:column$}↑ {what}", "");
            } else {
                println!("             {what:>0$} ↑", column.saturating_sub(1));
            }
        }
    }
}

fn wrapped(number: usize) -> u16 {
    u16::try_from(number % (1 << 16)).unwrap_or(0)
}
