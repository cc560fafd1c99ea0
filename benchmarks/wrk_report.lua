-- Writes what wrk measured as one JSON object to the file named by WRK_REPORT,
-- or to stderr. wrk exits 0 when every response was a 503: judge by the errors.
--
--   WRK_REPORT=report.json wrk -t1 -c100 -d3s -s wrk_report.lua http://host/
--
-- Latencies are wrk's histogram: microseconds from request to response, with
-- wrk's correction for coordinated omission (synthetic samples for slow ones).
-- Every value that occurred, and how often.

function done(summary, latency)
   local histogram = {}
   for i = 1, #latency do
      histogram[i] = string.format("[%d,%d]", latency(i))
   end
   local errors = summary.errors
   local report = string.format(
      '{"schema":"sockaccel.wrk/1","requests":%d,"bytes":%d,"duration_us":%d,'
         .. '"errors":{"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d},'
         .. '"latency_us":[%s]}\n',
      summary.requests, summary.bytes, summary.duration,
      errors.connect, errors.read, errors.write, errors.status, errors.timeout,
      table.concat(histogram, ","))
   local path = os.getenv("WRK_REPORT")
   local out = path and assert(io.open(path, "w")) or io.stderr
   out:write(report)
   if path then
      out:close()
   end
end
