//! A web service on a real origin, with and without the cache: pages of a shop, whose products stand in SQLite.
//!
//! ```sh
//! cargo run --release --example web_service                                   # the embedded store
//! cargo run --release --example web_service -- --url redis://127.0.0.1:6379   # a server
//! cargo run --release --example web_service -- --self-load 5                  # no load generator at hand
//! ```
//!
//! | route | |
//! |---|---|
//! | `GET /products/7` | the product, through the cache |
//! | `GET /direct/7` | the same, from SQLite each time |
//! | `PUT /products/7/price/1999` | changes the row, then invalidates |
//! | `GET /stats` | what became of the reads, and how many queries the origin saw |
//!
//! Load it with whatever you have: `wrk -c 32 http://127.0.0.1:3000/direct/7`, then `/products/7`. Ctrl-C lets the
//! requests in flight end. Other options: `--listen 127.0.0.1:3000` (port 0 takes a free one and prints it),
//! `--file FILE` for the database, which is filled if it is missing (in the temporary directory unless you say
//! otherwise), and `--query-ms N`, by which each query takes longer, as over a network: 0 unless you say
//! otherwise.
//!
//! With `--self-load SECONDS` it loads itself over loopback HTTP, 32 connections at once: first without the
//! cache, then with it. The lower a product's id, the more often it is read (the k-th as often as 1/k), and 20
//! times a second a price changes, after which the next page has to show it. It prints the following; the indented
//! lines are figures, which differ from run to run:
//!
//! ```text
//! 10000 products with 100000 reviews in SQLite
//! direct: 0 of the changed prices were not on the next page
//!   requests/s 22804, p50 1.32 ms, p99 3.40 ms, origin queries 114120
//! cached: 0 of the changed prices were not on the next page
//!   requests/s 40322, p50 0.58 ms, p99 4.78 ms, origin queries 9803
//!   near hits 182607, loads 9803, joined 264, invalidated 88
//! ```

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use larder::{CacheClient, Namespace, Outcome, ReadStats};
use tokio::net::TcpListener;

use self::origin::{Failure, Origin, PRODUCTS, Product, REVIEWS};

mod http;
mod origin;

/// Connections of the load, one request at a time on each.
const CLIENTS: u64 = 32;
/// The pause between two changes of prices.
const CHANGE_EVERY: Duration = Duration::from_millis(50);

/// The data-access object: keys, times and what happens on a change stand here and nowhere else.
#[derive(Clone)]
struct Products {
    cached: Namespace<u64, Product>,
    origin: Origin,
}

impl Products {
    fn new(cache: &CacheClient, origin: Origin) -> larder::Result<Self> {
        let database = origin.clone();
        let cached = cache
            .namespace("product")
            // An invalidation that never arrived is over after a minute.
            .ttl(Duration::from_secs(60))
            // While the database is away, pages stay for ten more.
            .grace(Duration::from_secs(600))
            // Guessed ids ask the database once in five seconds.
            .negative_ttl(Duration::from_secs(5))
            .near(true)
            .loader(move |id| {
                let database = database.clone();
                async move { database.find(id).await }
            })
            .build()?;
        Ok(Self { cached, origin })
    }

    async fn find(&self, id: u64) -> larder::Result<Option<Arc<Product>>> {
        self.cached.get(&id).await
    }

    /// Changes the row first: an invalidation before it could be followed by a load of the old one.
    async fn set_price(&self, id: u64, cents: u64) -> Result<Option<u64>, Failure> {
        let version = self.origin.set_price(id, cents).await?;
        match self.cached.invalidate(&id).await {
            // The store is away: the invalidation is sent before this process reads from it again.
            Err(error) if error.outcome() == Outcome::Deferred => eprintln!("later: {error}"),
            done => done?,
        }
        Ok(version)
    }
}

#[derive(Clone)]
struct App {
    products: Products,
    cache: CacheClient,
}

impl App {
    fn router(self) -> Router {
        Router::new()
            .route("/products/{id}", get(cached))
            .route("/direct/{id}", get(direct))
            .route("/products/{id}/price/{cents}", put(set_price))
            .route("/stats", get(stats))
            .with_state(self)
    }

    fn reads(&self) -> Option<ReadStats> {
        self.cache.stats().reads.remove("product")
    }
}

async fn cached(State(app): State<App>, Path(id): Path<u64>) -> Response {
    match app.products.find(id).await {
        Ok(Some(product)) => Json(&*product).into_response(),
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => failed(&error),
    }
}

async fn direct(State(app): State<App>, Path(id): Path<u64>) -> Response {
    match app.products.origin.find(id).await {
        Ok(Some(product)) => Json(product).into_response(),
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => failed(&error),
    }
}

async fn set_price(State(app): State<App>, Path((id, cents)): Path<(u64, u64)>) -> Response {
    match app.products.set_price(id, cents).await {
        Ok(Some(version)) => Json(version).into_response(),
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => failed(&error),
    }
}

async fn stats(State(app): State<App>) -> String {
    let queries = app.products.origin.queries();
    match app.reads() {
        Some(reads) => format!("origin queries: {queries}\n{reads:#?}\n"),
        None => format!("origin queries: {queries}\nnothing was read through the cache yet\n"),
    }
}

fn failed(error: &dyn std::fmt::Display) -> Response {
    eprintln!("{error}");
    StatusCode::SERVICE_UNAVAILABLE.into_response()
}

struct Options {
    url: String,
    listen: SocketAddr,
    file: PathBuf,
    query: Duration,
    self_load: Option<Duration>,
}

impl Options {
    fn from_args() -> Result<Self, Failure> {
        let mut options = Self {
            url: "memory://".to_owned(),
            listen: SocketAddr::from(([127, 0, 0, 1], 3000)),
            file: std::env::temp_dir().join("larder-web-service.sqlite"),
            query: Duration::ZERO,
            self_load: None,
        };
        let mut args = std::env::args().skip(1);
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--url" => options.url = value,
                "--listen" => options.listen = value.parse()?,
                "--file" => options.file = value.into(),
                "--query-ms" => options.query = Duration::from_millis(value.parse()?),
                "--self-load" => {
                    options.self_load = Some(Duration::try_from_secs_f64(value.parse()?)?);
                }
                _ => return Err(format!("{name} is no option; see the head of the example").into()),
            }
        }
        Ok(options)
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let options = Options::from_args()?;
    let origin = Origin::open(&options.file, options.query)?;
    println!("{PRODUCTS} products with {REVIEWS} reviews in SQLite");
    let cache = CacheClient::connect(&options.url).await?;
    let products = Products::new(&cache, origin)?;
    let app = App { products, cache: cache.clone() };
    match options.self_load {
        None => serve(app, options.listen).await?,
        Some(time) => load_itself(app, time).await?,
    }
    cache.close().await;
    Ok(())
}

async fn serve(app: App, listen: SocketAddr) -> Result<(), Failure> {
    let listener = TcpListener::bind(listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let stop = async {
        // Without a signal handler it is stopped by force.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    };
    axum::serve(listener, app.router()).with_graceful_shutdown(stop).await?;
    Ok(())
}

async fn load_itself(app: App, time: Duration) -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let server = tokio::spawn(axum::serve(listener, app.clone().router()).into_future());
    for (name, route) in [("direct", "direct"), ("cached", "products")] {
        let queries = app.products.origin.queries();
        let (mut took, late) = load(addr, route, time).await?;
        let queries = app.products.origin.queries() - queries;
        took.sort_unstable();
        let millis =
            |part: f64| took[((took.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
        println!("{name}: {late} of the changed prices were not on the next page");
        println!(
            "  requests/s {:.0}, p50 {:.2} ms, p99 {:.2} ms, origin queries {queries}",
            took.len() as f64 / time.as_secs_f64(),
            millis(0.5),
            millis(0.99)
        );
    }
    if let Some(reads) = app.reads() {
        let (near, loads, joined) = (reads.near_hits, reads.loads, reads.joined);
        let invalidated = reads.invalidations.total();
        println!("  near hits {near}, loads {loads}, joined {joined}, invalidated {invalidated}");
    }
    server.abort();
    // A service leaves its keys to the next one; this one was only tried.
    let ids: Vec<u64> = (1..=PRODUCTS).collect();
    for some in ids.chunks(500) {
        app.products.cached.invalidate_many(some).await?;
    }
    Ok(())
}

/// Answers how long each request took, and how many changes were not on the next page.
async fn load(
    addr: SocketAddr,
    route: &'static str,
    time: Duration,
) -> Result<(Vec<Duration>, u64), Failure> {
    let end = Instant::now() + time;
    let readers = (0..CLIENTS).map(|_| {
        tokio::spawn(async move {
            let (mut client, mut took) = (http::Client::connect(addr).await?, Vec::new());
            while Instant::now() < end {
                let path = format!("/{route}/{}", some_id());
                let asked = Instant::now();
                client.request("GET", &path).await?;
                took.push(asked.elapsed());
            }
            Ok::<_, Failure>(took)
        })
    });
    let readers: Vec<_> = readers.collect();
    let mut client = http::Client::connect(addr).await?;
    let mut late = 0;
    let mut changes = tokio::time::interval(CHANGE_EVERY);
    while Instant::now() < end {
        changes.tick().await;
        let (id, cents) = (some_id(), fastrand::u64(100..100_000));
        let changed = client.request("PUT", &format!("/products/{id}/price/{cents}")).await?;
        let version: u64 = serde_json::from_slice(&changed)?;
        let page = client.request("GET", &format!("/{route}/{id}")).await?;
        let product: Product = serde_json::from_slice(&page)?;
        late += u64::from((product.version, product.price_cents) != (version, cents));
    }
    let mut took = Vec::new();
    for reader in readers {
        took.extend(reader.await??);
    }
    Ok((took, late))
}

/// The k-th product with a probability in proportion to 1/k: some are in demand, most are not.
fn some_id() -> u64 {
    ((PRODUCTS as f64).powf(fastrand::f64()) as u64).clamp(1, PRODUCTS)
}
