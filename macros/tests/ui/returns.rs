use larder::{Loaded, cached};

#[cached(namespace = "user", key = "{id}", ttl = "5m")]
async fn nothing(id: u64) {
    drop(id);
}

#[cached(namespace = "user", key = "{id}", ttl = "5m")]
async fn unit(id: u64) -> Result<(), larder::Error> {
    drop(id);
    Ok(())
}

#[cached(namespace = "user", key = "{id}", ttl = "5m")]
async fn reference(id: &str) -> &str {
    id
}

#[cached(namespace = "user", key = "{id}", ttl = "5m")]
async fn no_name(id: u64) -> Option<impl Copy> {
    Some(id)
}

#[cached(namespace = "user", key = "{id}", ttl = "5m")]
async fn nested(id: u64) -> Option<Option<u64>> {
    Some(Some(id))
}

#[cached(namespace = "user", key = "{id}", ttl = "5m")]
async fn loaded(id: u64) -> Result<Loaded<u64>, larder::Error> {
    Ok(Loaded::value(id))
}

type Result<T = (), E = larder::Error> = std::result::Result<T, E>;

#[cached(namespace = "user", key = "{id}", ttl = "5m")]
async fn which(id: u64) -> Result {
    drop(id);
    Ok(())
}

fn main() {}
