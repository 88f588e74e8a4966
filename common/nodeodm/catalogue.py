"""The options of ODM 3.6.0 (contract 9.6), in the order of its parser; the help texts are our own.

Serves a node whose engine has not been asked for its own list, and gives every other engine's list its order.
"""

from common.nodeodm.options import Option

STAGES = (
    "dataset",
    "split",
    "merge",
    "opensfm",
    "openmvs",
    "odm_filterpoints",
    "odm_meshing",
    "mvs_texturing",
    "odm_georeferencing",
    "odm_dem",
    "odm_orthophoto",
    "odm_report",
    "odm_postprocess",
)
_QUALITY = ("ultra", "high", "medium", "low", "lowest")


def _flag(name: str, text: str) -> Option:
    return Option(name, "bool", "false", "", f"{text} Default: %(default)s")


def _choice(name: str, default: str, members: tuple[str, ...], text: str) -> Option:
    return Option(name, "enum", default, members, f"{text} Can be one of: %(choices)s. Default: %(default)s")


def _whole(name: str, default: str, text: str, domain: str = "positive integer") -> Option:
    return Option(name, "int", default, domain, f"{text} Default: %(default)s")


def _number(name: str, default: str, text: str, domain: str = "positive float") -> Option:
    return Option(name, "float", default, domain, f"{text} Default: %(default)s")


def _text(name: str, default: str, domain: str, text: str) -> Option:
    return Option(name, "string", default, domain, f"{text} Default: %(default)s")


ODM_OPTIONS: tuple[Option, ...] = (
    _choice("end-with", "odm_postprocess", STAGES, "Last stage to run; the later ones are left out."),
    _choice(
        "rerun-from",
        "",
        ("", *STAGES),
        "Run this stage and all later ones again, on the results of an earlier run.",
    ),
    _whole(
        "min-num-features",
        "10000",
        "How many features to look for in each image. More helps with little overlap or texture, and takes longer.",
        "integer",
    ),
    _choice(
        "feature-type",
        "dspsift",
        ("akaze", "dspsift", "hahog", "orb", "sift"),
        "How features are described for matching.",
    ),
    _choice(
        "feature-quality",
        "high",
        _QUALITY,
        "Image size at which features are found; higher is slower and needs more memory.",
    ),
    _choice("matcher-type", "flann", ("bow", "bruteforce", "flann"), "How features of two images are compared."),
    _whole(
        "matcher-neighbors",
        "0",
        "Match each image with this many nearest neighbours by GPS position; 0 lets the engine choose.",
    ),
    _whole(
        "matcher-order",
        "0",
        "Match each image with this many of those taken before and after it; 0 does not use the order of the images.",
    ),
    _flag("use-fixed-camera-params", "Keep the camera's parameters as they are given instead of refining them."),
    _text("cameras", "", "json", "Camera parameters from an earlier run, as a cameras.json file or its content."),
    _choice(
        "camera-lens",
        "auto",
        ("auto", "perspective", "brown", "fisheye", "fisheye_opencv", "spherical", "equirectangular", "dual"),
        "Model of the lens; auto takes it from the images.",
    ),
    _choice(
        "radiometric-calibration",
        "none",
        ("none", "camera", "camera+sun"),
        "Turn pixel values into reflectance, for multispectral and thermal cameras.",
    ),
    _whole("max-concurrency", "4", "Most processes to run at once; fewer need less memory."),
    _flag(
        "use-hybrid-bundle-adjustment",
        "Adjust locally after each image and globally now and then: faster for large sets.",
    ),
    _choice(
        "sfm-algorithm",
        "incremental",
        ("incremental", "triangulation", "planar"),
        "How camera positions are found. Triangulation trusts GPS and attitude; planar is for flat ground.",
    ),
    _flag("sfm-no-partial", "Do not join partial reconstructions when not all images fit into one."),
    _flag("sky-removal", "Mask the sky out of the images before matching; downloads a model."),
    _flag("bg-removal", "Mask the background out of the images before matching; downloads a model."),
    _flag("use-3dmesh", "Make the orthophoto from the full 3D mesh instead of the 2.5D one."),
    _flag(
        "skip-3dmodel",
        "Leave out the full 3D model when only the orthophoto and elevation models are wanted.",
    ),
    _flag("skip-report", "Leave out the report."),
    _flag("skip-orthophoto", "Leave out the orthophoto when only the 3D results or elevation models are wanted."),
    _flag("ignore-gsd", "Do not limit resolutions to what the flight's ground sampling distance supports."),
    _flag("no-gpu", "Do not use a GPU even where there is one."),
    _whole("mesh-size", "200000", "Most vertices of the mesh."),
    _whole(
        "mesh-octree-depth",
        "11",
        "Depth of the octree of the surface reconstruction; deeper shows finer detail and needs more memory.",
        "integer: 1 <= x <= 14",
    ),
    _flag(
        "fast-orthophoto",
        "Skip dense matching and make the orthophoto from the sparse points: fast, for flat ground.",
    ),
    _number("crop", "3", "Shrink the area of the results by this many meters from its edge; 0 does not crop."),
    _text(
        "boundary",
        "",
        "json",
        "GeoJSON polygon to which the reconstruction is limited, as a file or its content.",
    ),
    _flag("auto-boundary", "Limit the reconstruction to the area around the camera positions."),
    _number(
        "auto-boundary-distance",
        "0",
        "Distance of that area's edge from the cameras in meters; 0 lets the engine choose.",
    ),
    _choice(
        "pc-quality",
        "medium",
        _QUALITY,
        "Quality of the point cloud; each step up takes about four times as long.",
    ),
    _flag("pc-classify", "Classify the points of the cloud as ground and other."),
    _flag("pc-csv", "Export the point cloud as CSV too."),
    _flag("pc-las", "Export the point cloud as LAS too."),
    _flag("pc-ept", "Export the point cloud as Entwine Point Tiles too."),
    _flag("pc-copc", "Export the point cloud as a cloud-optimized LAZ too."),
    _number(
        "pc-filter",
        "5",
        "Remove points that lie further than this many standard deviations from their neighbours; 0 keeps all.",
    ),
    _number("pc-sample", "0", "Keep points at least this many meters apart; 0 keeps all."),
    _flag("pc-skip-geometric", "Skip the geometric check of depth maps: faster, noisier."),
    _number("smrf-scalar", "1.25", "Ground filter (SMRF): how much the elevation threshold grows with slope."),
    _number("smrf-slope", "0.15", "Ground filter (SMRF): steepest slope of bare ground, as rise over run."),
    _number("smrf-threshold", "0.5", "Ground filter (SMRF): elevation threshold in meters."),
    _number("smrf-window", "18", "Ground filter (SMRF): radius in meters of the largest object to remove."),
    _flag("texturing-skip-global-seam-leveling", "Do not even out colours over all images."),
    _flag("texturing-keep-unseen-faces", "Keep the faces of the mesh that no image shows."),
    _flag("texturing-single-material", "Put all textures into one material."),
    _flag("gltf", "Export the textured model as binary glTF too."),
    _flag("use-exif", "Take positions from the images' EXIF even where a ground control file is given."),
    _flag("dtm", "Make a terrain model: the ground without what stands on it."),
    _flag("dsm", "Make a surface model: the ground and all that stands on it."),
    _whole(
        "dem-gapfill-steps",
        "3",
        "Passes that fill gaps of the elevation models, each with twice the radius; 0 fills none.",
    ),
    _number("dem-resolution", "5", "Cell size of the elevation models in centimeters.", "float"),
    _whole("dem-decimation", "1", "Use every n-th point for the elevation models; 1 uses all."),
    _flag(
        "dem-euclidean-map",
        "Export for each elevation model a map of the distance to the nearest measured cell.",
    ),
    _number("orthophoto-resolution", "5", "Cell size of the orthophoto in centimeters.", "float > 0.0"),
    _flag("orthophoto-no-tiled", "Write the orthophoto in stripes instead of tiles."),
    _flag("orthophoto-png", "Export the orthophoto as PNG too."),
    _flag("orthophoto-kmz", "Export the orthophoto for Google Earth too."),
    _choice(
        "orthophoto-compression",
        "DEFLATE",
        ("JPEG", "LZW", "PACKBITS", "DEFLATE", "LZMA", "NONE"),
        "How the orthophoto is compressed.",
    ),
    _flag(
        "orthophoto-cutline",
        "Export a polygon around the orthophoto that cuts along its features, for merging.",
    ),
    _flag("tiles", "Make map tiles of the orthophoto and the elevation models."),
    _flag("3d-tiles", "Make OGC 3D Tiles of the model and the point cloud."),
    _flag("rolling-shutter", "Correct for a rolling shutter."),
    _number(
        "rolling-shutter-readout",
        "0",
        "Readout time of the sensor in milliseconds; 0 takes it from the list of known cameras.",
        "positive integer",
    ),
    _flag("build-overviews", "Add overviews to the orthophoto, for quick display when zoomed out."),
    _flag("cog", "Write rasters as Cloud Optimized GeoTIFF."),
    _whole("video-limit", "500", "Most frames to take from a video."),
    _whole("video-resolution", "4000", "Longest side of a video's frames in pixels."),
    _whole("split", "999999", "Average number of images of a submodel when a large set is split."),
    _number("split-overlap", "150", "Overlap of submodels in meters.", "positive integer"),
    _flag("sm-no-align", "Do not align submodels with each other; for positions that are exact already."),
    _text("sm-cluster", "None", "string", "URL of a NodeODM API to which submodels are sent."),
    _choice("merge", "all", ("all", "pointcloud", "orthophoto", "dem"), "What to merge of the submodels."),
    _flag("merge-skip-blending", "Do not blend submodels' orthophotos where they meet."),
    _flag("force-gps", "Use the images' GPS positions even where a ground control file is given."),
    _number(
        "gps-accuracy",
        "3",
        "How exact the GPS positions are, in meters; a smaller number gives them more weight.",
    ),
    _flag(
        "optimize-disk-space",
        "Delete what is no longer needed while processing goes on; it cannot be resumed then.",
    ),
    _flag("pc-rectify", "Correct the ground classification of the point cloud."),
    _text("primary-band", "auto", "string", "Name of the band that multispectral reconstruction works on."),
    _flag("skip-band-alignment", "Do not align the bands; for images that are aligned already."),
    _number("gps-z-offset", "0", "Meters to add to the altitude of each GPS position.", "float"),
)
